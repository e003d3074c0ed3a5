-- Makes participants present, or their leases longer.
--
-- KEYS[1]   round        hash  the open round of the task
-- KEYS[2]   leases       zset  participants and the ends of their leases
-- KEYS[3]   absent       set   contributors who are not present
-- KEYS[4]   connections  hash  participants and the connections that joined last, where they are told
-- ARGV[1]   channel of the hints
-- ARGV[2]   task id
-- ARGV[3]   end of the lease, seconds
-- ARGV[4]   connection through which they join; empty: not told, which leaves what was told before
-- ARGV[5+]  1 each: participant id
-- Returns
--   1  then: the fields of the round, how many are present, how many are absent
--   -1  the task has no round
local round, leases, absent, connections = unpack(KEYS)
local channel, task, lease_until, connection = unpack(ARGV, 1, 4)

if redis.call('EXISTS', round) == 0 then
  return {-1}
end
local present, changed = redis.call('ZCARD', leases), 0
for i = 5, #ARGV do
  changed = changed + redis.call('ZADD', leases, 'CH', lease_until, ARGV[i])
  if connection ~= '' and redis.call('HGET', connections, ARGV[i]) ~= connection then
    redis.call('HSET', connections, ARGV[i], connection)
    changed = changed + 1
  end
  redis.call('SREM', absent, ARGV[i])
end
if changed > 0 then
  redis.call('HINCRBY', round, 'revision', 1)
end
if redis.call('ZCARD', leases) ~= present then
  redis.call('PUBLISH', channel, table.concat({task, unpack(redis.call('HMGET', round, 'epoch', 'revision'))}, ' '))
end
return {1, redis.call('HGETALL', round), redis.call('ZCARD', leases), redis.call('SCARD', absent)}

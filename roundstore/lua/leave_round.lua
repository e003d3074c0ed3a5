-- Ends a presence, unless the participant has joined through another connection since.
--
-- KEYS[1]   round        hash  the open round of the task
-- KEYS[2]   leases       zset  participants and the ends of their leases
-- KEYS[3]   absent       set   contributors who are not present
-- KEYS[4]   admissions   hash  the contributors
-- KEYS[5]   connections  hash  participants and the connections that joined last, where they are told
-- ARGV[1]   channel of the hints
-- ARGV[2]   task id
-- ARGV[3]   participant id
-- ARGV[4]   connection that ends; empty: not told, which ends the presence whoever joined last
-- Returns
--   1  then: the fields of the round, how many are present, how many are absent
--   -1  the task has no round
local round, leases, absent, admissions, connections = unpack(KEYS)
local channel, task, participant, connection = unpack(ARGV)

if redis.call('EXISTS', round) == 0 then
  return {-1}
end
local holder = redis.call('HGET', connections, participant)
local is_newer = connection ~= '' and holder and holder ~= connection
if not is_newer and redis.call('ZREM', leases, participant) == 1 then
  redis.call('HDEL', connections, participant)
  if redis.call('HEXISTS', admissions, participant) == 1 then
    redis.call('SADD', absent, participant)
  end
  redis.call('HINCRBY', round, 'revision', 1)
  redis.call('PUBLISH', channel, table.concat({task, unpack(redis.call('HMGET', round, 'epoch', 'revision'))}, ' '))
end
return {1, redis.call('HGETALL', round), redis.call('ZCARD', leases), redis.call('SCARD', absent)}

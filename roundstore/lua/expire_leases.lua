-- Ends every presence whose lease has ended. Takes as long as there are such leases.
--
-- KEYS[1]   round        hash  the open round of the task
-- KEYS[2]   leases       zset  participants and the ends of their leases
-- KEYS[3]   absent       set   contributors who are not present
-- KEYS[4]   admissions   hash  the contributors
-- KEYS[5]   connections  hash  participants and the connections that joined last, where they are told
-- ARGV[1]   channel of the hints
-- ARGV[2]   task id
-- ARGV[3]   now, seconds
-- Returns
--   1  then: the fields of the round, how many are present, how many are absent
--   -1  the task has no round
local round, leases, absent, admissions, connections = unpack(KEYS)
local channel, task, now = unpack(ARGV)

if redis.call('EXISTS', round) == 0 then
  return {-1}
end
local ended = redis.call('ZRANGEBYSCORE', leases, '-inf', now)
for _, participant in ipairs(ended) do
  redis.call('HDEL', connections, participant)
  if redis.call('HEXISTS', admissions, participant) == 1 then
    redis.call('SADD', absent, participant)
  end
end
if #ended > 0 then
  redis.call('ZREMRANGEBYSCORE', leases, '-inf', now)
  redis.call('HINCRBY', round, 'revision', 1)
  redis.call('PUBLISH', channel, table.concat({task, unpack(redis.call('HMGET', round, 'epoch', 'revision'))}, ' '))
end
return {1, redis.call('HGETALL', round), redis.call('ZCARD', leases), redis.call('SCARD', absent)}

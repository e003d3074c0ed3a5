-- Changes the policy of a task that has a round.
--
-- KEYS[1]   round        hash  the open round of the task
-- KEYS[2]   leases       zset  participants and the ends of their leases
-- KEYS[3]   absent       set   contributors who are not present
-- ARGV[1]   channel of the hints
-- ARGV[2]   task id
-- ARGV[3+]  2 each: field of the policy, its value
-- Returns
--   1  then: the fields of the round, how many are present, how many are absent
--   -1  the task has no round
local round, leases, absent = unpack(KEYS)
local channel, task = ARGV[1], ARGV[2]

if redis.call('EXISTS', round) == 0 then
  return {-1}
end
local changed = false
for i = 3, #ARGV, 2 do
  if redis.call('HGET', round, ARGV[i]) ~= ARGV[i + 1] then
    redis.call('HSET', round, ARGV[i], ARGV[i + 1])
    changed = true
  end
end
if changed then
  redis.call('HINCRBY', round, 'revision', 1)
  redis.call('PUBLISH', channel, table.concat({task, unpack(redis.call('HMGET', round, 'epoch', 'revision'))}, ' '))
end
return {1, redis.call('HGETALL', round), redis.call('ZCARD', leases), redis.call('SCARD', absent)}

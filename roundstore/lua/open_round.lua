-- Opens a round of a task that has none.
--
-- KEYS[1]   round        hash  the open round of the task
-- KEYS[2]   leases       zset  participants and the ends of their leases
-- KEYS[3]   absent       set   contributors who are not present
-- KEYS[4]   admissions   hash  left over where the round alone was lost
-- KEYS[5]   sums         hash  left over where the round alone was lost
-- KEYS[6]   connections  hash  participants and the connections that joined last, where they are told
-- ARGV[1]   channel of the hints
-- ARGV[2]   task id
-- ARGV[3+]  2 each: field of the round, its value
-- Returns
--   1  opened, and then
--   0  there is a round already; then in both cases: its fields, how many are present, how many are absent
local round, leases, absent, admissions, sums, connections = unpack(KEYS)
local channel, task = ARGV[1], ARGV[2]

local code = 0
if redis.call('EXISTS', round) == 0 then
  redis.call('DEL', leases, absent, admissions, sums, connections)
  for i = 3, #ARGV, 2 do
    redis.call('HSET', round, ARGV[i], ARGV[i + 1])
  end
  redis.call('PUBLISH', channel, table.concat({task, unpack(redis.call('HMGET', round, 'epoch', 'revision'))}, ' '))
  code = 1
end
return {code, redis.call('HGETALL', round), redis.call('ZCARD', leases), redis.call('SCARD', absent)}

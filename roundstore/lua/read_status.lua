-- Reads the numbers of a task's round.
--
-- KEYS[1]   round        hash  the open round of the task
-- KEYS[2]   leases       zset  participants and the ends of their leases
-- KEYS[3]   absent       set   contributors who are not present
-- Returns
--   1  then: the fields of the round, how many are present, how many are absent
--   -1  the task has no round
local round, leases, absent = unpack(KEYS)

if redis.call('EXISTS', round) == 0 then
  return {-1}
end
return {1, redis.call('HGETALL', round), redis.call('ZCARD', leases), redis.call('SCARD', absent)}

-- Reads all of a round, mostly one that is being closed.
--
-- KEYS[1]   round        hash  the open round of the task
-- KEYS[2]   leases       zset  participants and the ends of their leases
-- KEYS[3]   absent       set   contributors who are not present
-- KEYS[4]   admissions   hash  participants and their admissions
-- KEYS[5]   sums         hash  replicas and their pointers
-- KEYS[6]   lost         list  participants and their admissions
-- ARGV[1]   epoch
-- ARGV[2]   number of the round
-- ARGV[3]   the state that it must be in; empty: any
-- Returns
--   1  then: the fields of the round, how many are present, how many are absent, the admissions, the sums, the lost
--   -2  the round is another one, or in another state
local round, leases, absent, admissions, sums, lost = unpack(KEYS)
local epoch, number, state = unpack(ARGV)

local is = redis.call('HMGET', round, 'epoch', 'number', 'state')
if is[1] ~= epoch or is[2] ~= number or (state ~= '' and is[3] ~= state) then
  return {-2}
end
return {
  1, redis.call('HGETALL', round), redis.call('ZCARD', leases), redis.call('SCARD', absent),
  redis.call('HGETALL', admissions), redis.call('HGETALL', sums), redis.call('LRANGE', lost, 0, -1),
}

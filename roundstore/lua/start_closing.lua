-- Gives the closing of a round to one replica, or takes it over from one whose lease has ended, and reads all of it.
--
-- KEYS[1]   round        hash  the open round of the task
-- KEYS[2]   leases       zset  participants and the ends of their leases
-- KEYS[3]   absent       set   contributors who are not present
-- KEYS[4]   admissions   hash  participants and their admissions
-- KEYS[5]   sums         hash  replicas and their pointers
-- KEYS[6]   lost         list  participants and their admissions
-- ARGV[1]   channel of the hints
-- ARGV[2]   task id
-- ARGV[3]   epoch
-- ARGV[4]   number of the round
-- ARGV[5]   closer, a replica id
-- ARGV[6]   end of the closer's lease, seconds
-- ARGV[7]   now, seconds
-- Returns
--   1  then: the fields of the round, how many are present, how many are absent, the admissions, the sums, the lost
--   -4  the round is another one, or somebody else is closing it
local round, leases, absent, admissions, sums, lost = unpack(KEYS)
local channel, task, epoch, number, closer, lease_until, now = unpack(ARGV)

local is = redis.call('HMGET', round, 'epoch', 'number', 'state', 'closer_until', 'closer')
if is[1] ~= epoch or is[2] ~= number then
  return {-4}
end
if is[3] == 'aggregating' and tonumber(now) < tonumber(is[4]) then
  return {-4}
end
if is[3] == 'collecting' or is[4] ~= lease_until or is[5] ~= closer then
  redis.call('HSET', round, 'state', 'aggregating', 'closer', closer, 'closer_until', lease_until)
  redis.call('HINCRBY', round, 'revision', 1)
  redis.call('PUBLISH', channel, table.concat({task, unpack(redis.call('HMGET', round, 'epoch', 'revision'))}, ' '))
end
return {
  1, redis.call('HGETALL', round), redis.call('ZCARD', leases), redis.call('SCARD', absent),
  redis.call('HGETALL', admissions), redis.call('HGETALL', sums), redis.call('LRANGE', lost, 0, -1),
}

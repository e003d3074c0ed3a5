-- Ends a round that is being closed and opens the next one.
--
-- KEYS[1]   round        hash  the open round of the task
-- KEYS[2]   leases       zset  participants and the ends of their leases
-- KEYS[3]   absent       set   contributors who are not present
-- KEYS[4]   admissions         hash  of this round
-- KEYS[5]   sums               hash  of this round
-- KEYS[6]   closed admissions  hash  where this round's go
-- KEYS[7]   closed sums        hash  where this round's go, and its numbers
-- KEYS[8]   lost               list  of this round, kept as long as that
-- ARGV[1]   channel of the hints
-- ARGV[2]   task id
-- ARGV[3]   epoch
-- ARGV[4]   number of the round
-- ARGV[5]   how long the closed round is kept, seconds
-- ARGV[6]   contributions in the version; empty: those of the round
-- ARGV[7]   contributions in all versions; empty: those of the rounds
-- Returns
--   1  then: the fields of the new round, how many are present, how many are absent (nobody)
--   -2  the round is another one, or not being closed
local round, leases, absent, admissions, sums, closed_admissions, closed_sums, lost = unpack(KEYS)
local channel, task, epoch, number, ttl, counted, ever = unpack(ARGV)

local is = redis.call('HMGET', round, 'epoch', 'number', 'state', 'contributions', 'max_total_weight', 'restores')
if is[1] ~= epoch or is[2] ~= number or is[3] ~= 'aggregating' then
  return {-2}
end
local numbers = redis.call('HMGET', round, 'weight_cap', 'contributions', 'total_weight', 'first_contribution_at',
  'oldest_base', 'lost')
redis.call('HSET', sums, '~round', table.concat({
  numbers[1], numbers[2], numbers[3], numbers[4], numbers[5] or '0', numbers[6] or '0'}, ' '))
redis.call('RENAME', sums, closed_sums)
redis.call('EXPIRE', closed_sums, ttl)
if redis.call('EXISTS', admissions) == 1 then
  redis.call('RENAME', admissions, closed_admissions)
  redis.call('EXPIRE', closed_admissions, ttl)
end
redis.call('DEL', absent)
redis.call('EXPIRE', lost, ttl)
redis.call('HINCRBY', round, 'number', 1)
redis.call('HINCRBY', round, 'revision', 1)
if counted == '' then
  counted = is[4]
end
if ever == '' then
  redis.call('HINCRBY', round, 'contributions_ever', is[4])
else
  redis.call('HSET', round, 'contributions_ever', ever)
end
if is[6] and is[6] ~= '' then
  redis.call('HSET', round, 'oldest_base', redis.call('HGET', round, 'number'))
end
redis.call('HSET', round, 'restores', '', 'restore_request', '', 'restore_asked_at', '')
redis.call('HSET', round, 'state', 'collecting', 'contributions', 0, 'last_contributions', counted, 'total_weight', 0,
  'weight_cap', is[5], 'first_contribution_at', '', 'closer', '', 'closer_until', '', 'lost', 0)
redis.call('PUBLISH', channel, table.concat({task, unpack(redis.call('HMGET', round, 'epoch', 'revision'))}, ' '))
return {1, redis.call('HGETALL', round), redis.call('ZCARD', leases), redis.call('SCARD', absent)}

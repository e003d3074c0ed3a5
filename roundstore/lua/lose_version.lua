-- Goes back from a round whose base version is gone to the round before, as that was when it was closed.
--
-- KEYS[1]   round        hash  the open round of the task
-- KEYS[2]   leases       zset  participants and the ends of their leases
-- KEYS[3]   absent       set   contributors who are not present
-- KEYS[4]   admissions         hash  of this round
-- KEYS[5]   sums               hash  of this round
-- KEYS[6]   lost               list  where this round's admissions go
-- KEYS[7]   closed admissions  hash  of the round before
-- KEYS[8]   closed sums        hash  of the round before, and its numbers
-- ARGV[1]   channel of the hints
-- ARGV[2]   task id
-- ARGV[3]   epoch
-- ARGV[4]   number of the round
-- ARGV[5]   the next epoch
-- Returns
--   1  then: the fields of the round before, how many are present, how many are absent
--   -2  the round is another one, or there is none before
local round, leases, absent, admissions, sums, lost, closed_admissions, closed_sums = unpack(KEYS)
local channel, task, epoch, number, next_epoch = unpack(ARGV)

local is = redis.call('HMGET', round, 'epoch', 'number', 'max_total_weight')
if is[1] ~= epoch or is[2] ~= number or number == '0' then
  return {-2}
end
local admitted, ordered = redis.call('HGETALL', admissions), {}
for i = 1, #admitted, 2 do
  local position = tonumber(string.match(admitted[i + 1], '^%S+ %S+ %S+ %S+ (%S+)'))
  table.insert(ordered, {position, admitted[i] .. ' ' .. admitted[i + 1]})
end
table.sort(ordered, function(one, other) return one[1] < other[1] end)
for _, each in ipairs(ordered) do redis.call('RPUSH', lost, each[2]) end
redis.call('PERSIST', lost)
redis.call('DEL', admissions, sums, absent)
local cap, contributions, weight, first, oldest_base, missing = is[3], 0, 0, '', 0, 0
local numbers = redis.call('HGET', closed_sums, '~round')
if numbers and redis.call('HLEN', closed_admissions) == tonumber(string.match(numbers, '^%S+ (%S+)')) then
  cap, contributions, weight, first, oldest_base, missing =
    string.match(numbers, '^(%S+) (%S+) (%S+) (%S*) (%S+) (%S+)$')
  redis.call('RENAME', closed_sums, sums)
  redis.call('HDEL', sums, '~round')
  redis.call('PERSIST', sums)
  if contributions ~= '0' then
    redis.call('RENAME', closed_admissions, admissions)
    redis.call('PERSIST', admissions)
  end
  for _, participant in ipairs(redis.call('HKEYS', admissions)) do
    if not redis.call('ZSCORE', leases, participant) then
      redis.call('SADD', absent, participant)
    end
  end
end
redis.call('HSET', round, 'number', number - 1, 'epoch', next_epoch, 'state', 'collecting',
  'contributions', contributions, 'total_weight', weight, 'weight_cap', cap, 'first_contribution_at', first,
  'closer', '', 'closer_until', '', 'last_contributions', 0, 'restores', '', 'restore_request', '',
  'restore_asked_at', '', 'oldest_base', oldest_base, 'lost', missing)
redis.call('HINCRBY', round, 'contributions_ever', 0 - contributions)
redis.call('HINCRBY', round, 'revision', 1)
redis.call('PUBLISH', channel, table.concat({task, unpack(redis.call('HMGET', round, 'epoch', 'revision'))}, ' '))
return {1, redis.call('HGETALL', round), redis.call('ZCARD', leases), redis.call('SCARD', absent)}

-- Admits a whole group of contributions and moves the replica's pointer, or does neither.
--
-- The members are judged in their order, each as if those before it were admitted (learning.federated).
--
-- KEYS[1]   round        hash  the open round of the task
-- KEYS[2]   leases       zset  participants and the ends of their leases
-- KEYS[3]   absent       set   contributors who are not present
-- KEYS[4]   admissions   hash  participant id and admission: digest, base round, weight, round, position, replica id
-- KEYS[5]   sums         hash  replica id and pointer
-- KEYS[6]   norms        list  of the last contributions, newest first
-- ARGV[1]   channel of the hints
-- ARGV[2]   task id
-- ARGV[3]   epoch
-- ARGV[4]   number of the round
-- ARGV[5]   replica id
-- ARGV[6]   the replica's new pointer
-- ARGV[7]   now, seconds
-- ARGV[8]   norms that are remembered
-- ARGV[9+]  5 each: participant id, digest, base round, weight, norm or ''
-- Returns
--   1  all admitted; then: the fields of the round, how many are present, how many are absent
--   -2  the round is another one, or not collecting
--   -3  none admitted; then of each refused one: index, and its earlier admission or '' (too heavy); then the cap
local round, leases, absent, admissions, sums, norms = unpack(KEYS)
local channel, task, epoch, number, replica, pointer, now, norms_kept = unpack(ARGV, 1, 8)

local is = redis.call('HMGET', round, 'epoch', 'number', 'state')
if is[1] ~= epoch or is[2] ~= number or is[3] ~= 'collecting' then
  return {-2}
end
local counts = redis.call('HMGET', round, 'contributions', 'total_weight', 'weight_cap', 'lost')
local total, cap = tonumber(counts[2]), tonumber(counts[3])
local position = tonumber(counts[1]) + tonumber(counts[4] or '0')
local admitted, refused = {}, {}
for i = 9, #ARGV, 5 do
  local participant, digest, base_round, weight = unpack(ARGV, i, i + 3)
  local earlier = admitted[participant] or redis.call('HGET', admissions, participant)
  if earlier or total + tonumber(weight) > cap then
    table.insert(refused, {(i - 9) / 5, earlier or ''})
  else
    admitted[participant] = table.concat({digest, base_round, weight, number, position, replica}, ' ')
    position, total = position + 1, total + tonumber(weight)
  end
end
if #refused > 0 then return {-3, refused, counts[3]} end

for i = 9, #ARGV, 5 do
  redis.call('HSET', admissions, ARGV[i], admitted[ARGV[i]])
  redis.call('HINCRBY', round, 'total_weight', ARGV[i + 3])
  if not redis.call('ZSCORE', leases, ARGV[i]) then redis.call('SADD', absent, ARGV[i]) end
  if ARGV[i + 4] ~= '' then redis.call('LPUSH', norms, ARGV[i + 4]) end
end
redis.call('LTRIM', norms, 0, norms_kept - 1)
redis.call('HINCRBY', round, 'contributions', (#ARGV - 8) / 5)
redis.call('HSET', sums, replica, pointer)
if redis.call('HGET', round, 'first_contribution_at') == '' then redis.call('HSET', round, 'first_contribution_at', now) end
redis.call('HINCRBY', round, 'revision', 1)
redis.call('PUBLISH', channel, table.concat({task, unpack(redis.call('HMGET', round, 'epoch', 'revision'))}, ' '))
return {1, redis.call('HGETALL', round), redis.call('ZCARD', leases), redis.call('SCARD', absent)}

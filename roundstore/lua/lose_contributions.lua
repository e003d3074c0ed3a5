-- Takes contributions whose bytes are gone out of a round; it collects, or collects again.
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
-- ARGV[5]   revision of the round
-- ARGV[6]   the next epoch
-- ARGV[7+]  3 each: 'lost', participant id, ''; or 'sum', replica id, its pointer from now on ('': none)
-- Returns
--   1  then: the fields of the round, how many are present, how many are absent
--   -2  the round is another one, or was changed
local round, leases, absent, admissions, sums, lost = unpack(KEYS)
local channel, task, epoch, number, revision, next_epoch = unpack(ARGV, 1, 6)

local is = redis.call('HMGET', round, 'epoch', 'number', 'revision')
if is[1] ~= epoch or is[2] ~= number or is[3] ~= revision then
  return {-2}
end
local left = tonumber(redis.call('HGET', round, 'contributions'))
for i = 7, #ARGV, 3 do
  local kind, name, pointer = unpack(ARGV, i, i + 2)
  if kind == 'lost' then
    local admission = redis.call('HGET', admissions, name)
    local weight = string.match(admission, '^%S+ %S+ (%S+)')
    redis.call('RPUSH', lost, name .. ' ' .. admission)
    redis.call('HDEL', admissions, name)
    redis.call('SREM', absent, name)
    left = redis.call('HINCRBY', round, 'contributions', -1)
    redis.call('HINCRBY', round, 'total_weight', '-' .. weight)
    redis.call('HINCRBY', round, 'lost', 1)
  elseif pointer == '' then
    redis.call('HDEL', sums, name)
  else
    redis.call('HSET', sums, name, pointer)
  end
end
redis.call('PERSIST', lost)
if left == 0 then
  redis.call('HSET', round, 'first_contribution_at', '')
end
redis.call('HSET', round, 'epoch', next_epoch, 'state', 'collecting', 'closer', '', 'closer_until', '',
  'restores', '', 'restore_request', '', 'restore_asked_at', '')
redis.call('HINCRBY', round, 'revision', 1)
redis.call('PUBLISH', channel, table.concat({task, unpack(redis.call('HMGET', round, 'epoch', 'revision'))}, ' '))
return {1, redis.call('HGETALL', round), redis.call('ZCARD', leases), redis.call('SCARD', absent)}

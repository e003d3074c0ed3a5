-- Ends the collecting of a round, due or not, and gives its closing to one replica: the next version is an older one again.
--
-- KEYS[1]   round        hash  the open round of the task
-- KEYS[2]   leases       zset  participants and the ends of their leases
-- KEYS[3]   absent       set   contributors who are not present
-- ARGV[1]   channel of the hints
-- ARGV[2]   task id
-- ARGV[3]   epoch
-- ARGV[4]   number of the round
-- ARGV[5]   closer, a replica id
-- ARGV[6]   end of the closer's lease, seconds
-- ARGV[7]   the version that the next one will be
-- ARGV[8]   id of the request
-- ARGV[9]   when it was asked for, seconds
-- Returns
--   1  then: the fields of the round, how many are present, how many are absent
--   -4  the round is another one, or not collecting
local round, leases, absent = unpack(KEYS)
local channel, task, epoch, number, closer, lease_until, version, request, asked_at = unpack(ARGV)

local is = redis.call('HMGET', round, 'epoch', 'number', 'state')
if is[1] ~= epoch or is[2] ~= number or is[3] ~= 'collecting' then
  return {-4}
end
redis.call('HSET', round, 'state', 'aggregating', 'closer', closer, 'closer_until', lease_until,
  'restores', version, 'restore_request', request, 'restore_asked_at', asked_at)
redis.call('HINCRBY', round, 'revision', 1)
redis.call('PUBLISH', channel, table.concat({task, unpack(redis.call('HMGET', round, 'epoch', 'revision'))}, ' '))
return {1, redis.call('HGETALL', round), redis.call('ZCARD', leases), redis.call('SCARD', absent)}

-- Replaces the decentralized round of a task, if it is still the one that was read.
--
-- KEYS[1]   peers        hash  the round: its revision, and all of it as the store wrote it
-- ARGV[1]   channel of the hints
-- ARGV[2]   hint
-- ARGV[3]   revision that was read, 0 where there was no round
-- ARGV[4]   new revision
-- ARGV[5]   new body
-- ARGV[6]   how long the round is kept, seconds
-- Returns
--   1  replaced
--   -2  the round is at another revision
local peers = KEYS[1]
local channel, hint, expected, revision, body, ttl = unpack(ARGV)

if (redis.call('HGET', peers, 'revision') or '0') ~= expected then
  return {-2}
end
redis.call('HSET', peers, 'revision', revision, 'body', body)
redis.call('EXPIRE', peers, ttl)
redis.call('PUBLISH', channel, hint)
return {1}

-- Ends the round of a task that is no more, whatever its state, and all that was contributed to it.
--
-- KEYS[1]   round        hash  the open round of the task
-- KEYS[2]   leases       zset  participants and the ends of their leases
-- KEYS[3]   absent       set   contributors who are not present
-- KEYS[4]   admissions   hash  of this round
-- KEYS[5]   sums         hash  of this round
-- KEYS[6]   lost         list  of this round
-- KEYS[7]   norms        list  of the last contributions to the task
-- KEYS[8]   refusals     stream  of the last contributions to the task
-- KEYS[9]   connections  hash  participants and the connections that joined last, where they are told
-- ARGV[1]   channel of the hints
-- ARGV[2]   task id
-- Returns
--   1  done
--   -1  the task has no round
local round, leases, absent, admissions, sums, lost, norms, refusals, connections = unpack(KEYS)
local channel, task = ARGV[1], ARGV[2]

local code = redis.call('EXISTS', round) == 1 and 1 or -1
redis.call('DEL', round, leases, absent, admissions, sums, lost, norms, refusals, connections)
if code == 1 then
  redis.call('PUBLISH', channel, task)
end
return {code}

-- Takes turns from a bucket (GCRA), by the clock of this server. All times are in microseconds.
-- KEYS[1]  the bucket: the theoretical arrival time of the next turn
-- ARGV     interval, burst, turns wanted, how far into the future turns may lie, how far they may lie for anyone
-- Answers  turns taken, when the first conforms (negative: since when; none taken: when it would), turns left
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local interval, burst, want = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local ahead, furthest = tonumber(ARGV[4]), tonumber(ARGV[5])
local full = interval * burst

local tat = tonumber(redis.call('GET', KEYS[1]) or now)
-- The upper bound matters only when the clock was set back.
tat = math.min(math.max(tat, now), now + full + furthest)

local first = tat + interval - full - now
-- Half a microsecond is less than the clock can tell, and more than rounding makes of these numbers.
local turns = math.max(0, math.min(want, math.floor((ahead - first + 0.5) / interval) + 1))
if turns > 0 then
  tat = tat + turns * interval
  -- Gone at that time is the same as full.
  redis.call('SET', KEYS[1], string.format('%.17g', tat), 'PX', math.ceil((tat - now) / 1000) + 1)
end
return { turns, math.ceil(first), math.max(0, math.floor((now + full - tat + 0.5) / interval)) }

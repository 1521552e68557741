-- Cycles over requests that were written to a file beforehand, so that wrk spends its core on sending.
-- Prints one line that run.py reads.

local requests, at = {}, 0

function init(args)
   local file = assert(io.open(args[1], "rb"))
   -- No request holds a NUL: bodies are JSON.
   for request in file:read("*a"):gmatch("[^%z]+") do
      requests[#requests + 1] = request
   end
   file:close()
end

function request()
   at = at % #requests + 1
   return requests[at]
end

function done(summary, latency)
   local e = summary.errors
   io.write(string.format(
      "RESULT requests=%d microseconds=%d p50=%d p99=%d connect=%d read=%d write=%d status=%d timeout=%d\n",
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
      e.connect, e.read, e.write, e.status, e.timeout))
end

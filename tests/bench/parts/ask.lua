-- For wrk: sends the requests in $REQUESTS in turn. Each is a list of files (commas between), which are joined by a
-- running number, so that no image is the same twice.
local requests, sent = {}, tonumber(os.getenv("FIRST"))
for list in string.gmatch(os.getenv("REQUESTS"), "[^:]+") do
  local chunks = {}
  for path in string.gmatch(list, "[^,]+") do
    local file = assert(io.open(path, "rb"))
    chunks[#chunks + 1] = file:read("*all")
    file:close()
  end
  requests[#requests + 1] = chunks
end
request = function()
  sent = sent + 1
  return table.concat(requests[sent % #requests + 1], string.format("%012d", sent))
end
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format('\nJSON {"answers":%d,"seconds":%.4f,"p50":%.3f,"p99":%.3f,"refused":%d,"broken":%d}\n',
    summary.requests - e.status, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.status, e.connect + e.read + e.write + e.timeout))
end

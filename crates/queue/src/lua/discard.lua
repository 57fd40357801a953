-- Jobs whose runs need no job any more leave the lines; what is held or claimed since is not touched.
-- ARGV per job: id, epoch as it was read. Returns 1 or 0 per job.
local out = {}
for i = 1, #ARGV, 2 do
  local id, epoch = ARGV[i], tonumber(ARGV[i + 1])
  local m, text = meta_read(id), call('HGET', BODY, id)
  local waits = m and m.epoch == epoch and (m.list == 'high' or m.list == 'pending' or m.list == 'retry')
  if waits and not call('ZSCORE', LEASE, id) then
    if text then take_out(id, m, text) end
    forget(id)
    out[#out + 1] = 1
  else
    out[#out + 1] = 0
  end
end
return out

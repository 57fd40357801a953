-- ARGV: id. Takes a job out of whatever holds it. Returns 1 when it was known.
local id = ARGV[1]
local m, text = meta_read(id), call('HGET', BODY, id)
if text then
  local found = m and take_out(id, m, text)
  if not found then
    for _, key in pairs(LIST) do
      if call('LREM', key, 1, text) == 1 then break end
    end
  end
end
local known = m or text or call('ZSCORE', LEASE, id) or call('ZSCORE', DUE, id)
forget(id)
return known and 1 or 0

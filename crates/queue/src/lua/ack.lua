-- ARGV: id and epoch per job. Returns 'ok', 'stale' or 'gone' per job; one stale job does not hold up the others.
local out = {}
for i = 1, #ARGV, 2 do
  local id, epoch = ARGV[i], tonumber(ARGV[i + 1])
  local m = meta_read(id)
  if not m then
    out[#out + 1] = 'gone'
  elseif m.epoch ~= epoch then
    out[#out + 1] = 'stale'
  else
    local text = call('HGET', BODY, id)
    if text then take_out(id, m, text) end
    forget(id)
    out[#out + 1] = 'ok'
  end
end
return out

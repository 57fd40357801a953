-- ARGV: id (may be ''), element in the dead letters. Returns 1 when it was there.
local id, text = ARGV[1], ARGV[2]
local there = call('LREM', FAILED, 1, text)
if id ~= '' then
  local m = meta_read(id)
  if m and m.list == 'failed' then forget(id) end
end
return there

-- ARGV: per job its id, its home list, its text. Returns 1 (pushed) or 0 (known already) per job.
local out = {}
for i = 1, #ARGV, 3 do
  local id, home, text = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local fresh = call('HSETNX', META, id, '0|0|' .. home .. '|' .. home .. '|own|' .. int(#text) .. '|')
  if fresh == 1 then
    call('HSET', BODY, id, text)
    call('LPUSH', LIST[home], text)
    wake()
  end
  out[#out + 1] = fresh
end
return out

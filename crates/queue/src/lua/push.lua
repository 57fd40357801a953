-- ARGV: per job its id, its home list, its text; at most a few hundred. Returns 1 (pushed) or 0 (known already) per job.
local ids, out = {}, {}
for i = 1, #ARGV, 3 do ids[#ids + 1] = ARGV[i] end
local known = call('HMGET', META, spread(ids))
local metas, bodies, texts, fresh = {}, {}, {high = {}, pending = {}}, 0
local seen = {}
for i, id in ipairs(ids) do
  local home, text = ARGV[3 * i - 1], ARGV[3 * i]
  out[i] = 0
  if not known[i] and not seen[id] then
    seen[id] = true
    out[i] = 1
    fresh = fresh + 1
    local line = texts[home]
    line[#line + 1] = text
    metas[2 * fresh - 1], metas[2 * fresh] = id, '0|0|' .. home .. '|' .. home .. '|own|' .. int(#text) .. '|'
    bodies[2 * fresh - 1], bodies[2 * fresh] = id, text
  end
end
if fresh == 0 then return out end
call('HSET', META, spread(metas))
call('HSET', BODY, spread(bodies))
for home, line in pairs(texts) do
  if #line > 0 then call('LPUSH', LIST[home], spread(line)) end
end
wake(fresh)
return out

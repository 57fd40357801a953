-- ARGV: id and epoch per job. Returns 'ok', 'stale' or 'gone' per job; one stale job does not hold up the others.
-- The same few calls settle many jobs as one.
local out, done = {}, {}

-- Takes elements out of processing. The jobs of one claim lie together there and the newest claim at the head, so
-- the head is cut off as deep as they reach, and what others hold of it is put back.
local function cut_out(texts)
  local count = #texts
  local left, missing, stay, depth = {}, count, {}, 0
  for _, text in ipairs(texts) do left[text] = true end
  for _, limit in ipairs({count, 4 * count}) do
    for _, text in ipairs(missing > 0 and call('LRANGE', PROCESSING, depth, limit - 1) or {}) do
      if missing == 0 then break end
      depth = depth + 1
      if left[text] then
        left[text] = nil
        missing = missing - 1
      else
        stay[#stay + 1] = text
      end
    end
  end
  if missing > 0 then return false end
  call('LTRIM', PROCESSING, depth, -1)
  local back = {}
  for i = #stay, 1, -1 do back[#back + 1] = stay[i] end
  if #back > 0 then call('LPUSH', PROCESSING, spread(back)) end
  return true
end

local function ack(ids, epochs)
  local metas, bodies = call('HMGET', META, spread(ids)), call('HMGET', BODY, spread(ids))
  local settled, held = {}, {}
  for i, id in ipairs(ids) do
    local epoch, list
    if metas[i] and not done[id] then epoch, list = string.match(metas[i], '^(%-?%d+)|%d+|(%a+)|') end
    if not LIST[list] then
      out[#out + 1] = 'gone'
    elseif epoch ~= epochs[i] then
      out[#out + 1] = 'stale'
    else
      if bodies[i] and list == 'processing' then
        held[#held + 1] = bodies[i]
      elseif bodies[i] then
        call('LREM', LIST[list], -1, bodies[i]) -- put back in line by a sweep
      end
      done[id] = true
      settled[#settled + 1] = id
      out[#out + 1] = 'ok'
    end
  end
  if #held < 2 or not cut_out(held) then
    for i = #held, 1, -1 do call('LREM', PROCESSING, 1, held[i]) end
  end
  forget_all(settled)
end

local ids, epochs = {}, {}
for i = 1, #ARGV, 2 do
  ids[#ids + 1], epochs[#epochs + 1] = ARGV[i], ARGV[i + 1]
  if #ids == MOST_SPREAD or i + 1 >= #ARGV then
    ack(ids, epochs)
    ids, epochs = {}, {}
  end
end
return out

-- Ids and elements that two audits running found astray; each is checked again here, where nothing can move.
-- ARGV: 'id' id | 'retry' element …, in pairs. Returns how many were mended.
local mended = 0
local function anywhere(text)
  for _, key in pairs(LIST) do
    if call('LPOS', key, text) then return true end
  end
  return false
end
for i = 1, #ARGV, 2 do
  local what = ARGV[i + 1]
  if ARGV[i] == 'id' then
    -- Known, but in no list: forget it, so that it can be pushed again.
    local text = call('HGET', BODY, what)
    if not call('ZSCORE', LEASE, what) and not (text and anywhere(text)) then
      forget(what)
      mended = mended + 1
    end
  else
    -- In the retry list without a due time: it would wait for ever.
    local id = job_id_of(what)
    local due = id and call('ZSCORE', DUE, id)
    local m = id and call('HGET', BODY, id) == what and meta_read(id)
    if not (due and m) and call('LPOS', RETRY, what) then
      local home = 'pending'
      local text = what
      if m then
        home = m.home
        text = plain(what, m)
        m.list = home
        m.keep = #text
        meta_write(id, m)
        call('HSET', BODY, id, text)
      end
      call('LPUSH', LIST[home], text)
      take_from_retry(id or '', what)
      wake()
      mended = mended + 1
    end
  end
end
return mended

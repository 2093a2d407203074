-- What a user of Neovim does, by its own client: a completion goes in at the cursor, an action changes a selection, one undo takes it
-- back. $TOLD names a JSON file: server (a command), file, line and column (bytes) of the cursor, chosen (a line). $FOUND is written.
local told = vim.fn.json_decode(table.concat(vim.fn.readfile(vim.env.TOLD), '\n'))
local found, loaded = {}, false

local function lines() return vim.api.nvim_buf_get_lines(0, 0, -1, false) end

local function ask(method, params)
  local answers, err = vim.lsp.buf_request_sync(0, method, params, 120000)
  assert(answers, method .. ': ' .. tostring(err))
  local _, answer = next(answers)
  assert(answer and not answer.err and not answer.error, method .. ': ' .. vim.inspect(answer))
  return answer.result
end

local function run()
  vim.cmd('edit ' .. vim.fn.fnameescape(told.file))
  local id = vim.lsp.start_client({
    name = 'mezzotint', cmd = told.server, root_dir = vim.fn.getcwd(),
    handlers = { ['window/logMessage'] = function(_, said)
      if said.message:find('is loaded') then loaded = true end
    end },
  })
  vim.lsp.buf_attach_client(0, id)
  assert(vim.wait(120000, function() return loaded end), 'the model was not loaded')
  local client = vim.lsp.get_client_by_id(id)
  found.encoding = client.offset_encoding

  vim.api.nvim_win_set_cursor(0, { told.line + 1, told.column })
  local where = vim.lsp.util.make_position_params(0, client.offset_encoding)
  where.context = { triggerKind = 1 }
  local item = ask('textDocument/inlineCompletion', where).items[1]
  vim.lsp.util.apply_text_edits({ { range = item.range, newText = item.insertText } }, 0, client.offset_encoding)
  found.inserted, found.completed = item.insertText, lines()

  vim.cmd('let &undolevels = &undolevels') -- what follows is undone by itself
  local length = vim.str_utfindex(lines()[told.chosen + 1], nil)
  local range = { start = { line = told.chosen, character = 0 }, ['end'] = { line = told.chosen, character = length } }
  local actions = ask('textDocument/codeAction', {
    textDocument = vim.lsp.util.make_text_document_params(0), range = range, context = { diagnostics = {} },
  })
  found.actions = {}
  for _, action in ipairs(actions) do
    table.insert(found.actions, action.kind)
    if action.kind:find('%.grammar$') then
      found.done = ask('workspace/executeCommand', { command = action.command.command, arguments = action.command.arguments })
    end
  end
  found.edited = lines()
  vim.cmd('undo')
  found.undone = lines()
  vim.lsp.stop_client(id)
  found.ended = vim.wait(30000, function() return vim.lsp.get_client_by_id(id) == nil end)
end

local fine, problem = pcall(run)
if not fine then found.problem = tostring(problem) end
vim.fn.writefile({ vim.fn.json_encode(found) }, vim.env.FOUND)
vim.cmd('qall!')

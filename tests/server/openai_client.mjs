// OpenAI's own client for JavaScript: what it reads of a chat, a stream, a completion with a suffix, a call, a schema.
// node openai_client.mjs ADDRESS '{"seed": 3, ...}', NODE_PATH beside it -> one JSON object
import { createRequire } from "node:module";
const OpenAI = createRequire(process.env.CLIENTS + "/")("openai").default;

const [address, plan] = process.argv.slice(2);
const { seed, temperature, prompt, length, prefix, suffix, schema } = JSON.parse(plan);
const client = new OpenAI({ baseURL: `${address}/v1`, apiKey: "-", maxRetries: 0 });
const told = { model: "tiny", seed, temperature };
const chat = { ...told, messages: [{ role: "user", content: prompt }], max_completion_tokens: length };
const found = {};
found.chat = (await client.chat.completions.create(chat)).choices[0].message.content;
found.stream = "";
for await (const chunk of await client.chat.completions.create({ ...chat, stream: true })) found.stream += chunk.choices[0].delta.content ?? "";
const helper = client.chat.completions.stream(chat);
found.helper = (await helper.finalChatCompletion()).choices[0].message.content;
found.fim = (await client.completions.create({ ...told, prompt: prefix, suffix, max_tokens: 6 })).choices[0].text;
const roomy = { ...chat, max_completion_tokens: 80 };
const format = { type: "json_schema", json_schema: { name: "thing", schema, strict: true } };
found.schema = (await client.chat.completions.create({ ...roomy, response_format: format })).choices[0].message.content;
const tool = { type: "function", function: { name: "find", parameters: schema } };
const call = (await client.chat.completions.create({ ...roomy, tools: [tool], tool_choice: "required" })).choices[0].message.tool_calls[0];
found.tool = [call.function.name, call.function.arguments];
found.models = (await client.models.list()).data.map((model) => model.id);
console.log(JSON.stringify(found));

// A load for a Penstock gateway, or any OpenAI-compatible server, with k6 (k6 1.0 or newer):
//
//   k6 run deploy/k6/penstock.js -e BASE_URL=http://127.0.0.1:8080 -e API_KEY=sk-... -e PAYLOAD_TYPE=short \
//     -e VUS=4 -e ITERATIONS=192
//
// BASE_URL      the server, with or without /v1/chat/completions behind it (default http://127.0.0.1:8080)
// API_KEY       sent as a bearer token; none where it is empty
// PAYLOAD_TYPE  short (64 tokens) or long (256 tokens); default short
// VUS           requests under way at once, 1 to 10000; default 1
// ITERATIONS    requests in all, at least VUS; default 10 for each of VUS
// MODEL         the model to ask for; default the first that /v1/models names
// MAX_ERROR_RATE  share of failed requests over which k6 ends with exit code 99; default 0.01
// TIMEOUT_S     how long one answer may take, seconds; default 600
// K6_INSECURE_SKIP_TLS_VERIFY  true takes any certificate
//
// k6 reads an answer only when it is whole, so it can't see a first token: it counts whole answers, their time and
// their tokens. For first tokens and gaps between tokens: `penstock bench run`.

import { fail } from "k6";
import http from "k6/http";
import { Counter, Rate, Trend } from "k6/metrics";

const PATH = "/v1/chat/completions";
const PAYLOADS = {
  short: { tokens: 64, prompt: "Explain in a few sentences what a load balancer does." },
  long: {
    tokens: 256,
    prompt:
      "Write a thorough introduction to serving large language models: batching, the KV cache, queues, " +
      "time to first token, and how to choose the number of replicas. Use several paragraphs.",
  },
};

const type = __ENV.PAYLOAD_TYPE || "short";
const payload = PAYLOADS[type];
if (!payload) {
  throw new Error(`PAYLOAD_TYPE: "${type}" is neither short nor long`);
}
const vus = number("VUS", 1, 1, 10000);
const iterations = number("ITERATIONS", 10 * vus, vus, 10000000);
const timeoutS = number("TIMEOUT_S", 600, 1, 86400);
const maxErrorRate = number("MAX_ERROR_RATE", 0.01, 0, 1);
const base = (__ENV.BASE_URL || "http://127.0.0.1:8080").replace(/\/+$/, "").replace(/(\/v1)?(\/chat\/completions)?$/, "");

const answers = new Rate("llm_answers_whole");
const outputTokens = new Counter("llm_output_tokens");
const promptTokens = new Counter("llm_prompt_tokens");
// Of whole answers alone: http_req_duration holds the failed ones too, and the question for the model's name.
const duration = new Trend("llm_answer_duration", true);
const tokensPerSecond = new Trend("llm_tokens_per_second_of_a_request");

export const options = {
  insecureSkipTLSVerify: (__ENV.K6_INSECURE_SKIP_TLS_VERIFY || "").toLowerCase() === "true",
  // An answer may take minutes; k6 would end the whole run after ten.
  scenarios: {
    [type]: { executor: "shared-iterations", vus, iterations, maxDuration: "24h", gracefulStop: "30s" },
  },
  thresholds: { llm_answers_whole: [`rate>=${1 - maxErrorRate}`] },
  summaryTrendStats: ["min", "med", "avg", "p(90)", "p(95)", "p(99)", "max"],
};

export function setup() {
  const model = __ENV.MODEL || firstModel();
  return { model };
}

export default function ({ model }) {
  const body = {
    model,
    messages: [{ role: "user", content: payload.prompt }],
    max_tokens: payload.tokens,
    temperature: 0,
    stream: false,
  };
  const response = http.post(`${base}${PATH}`, JSON.stringify(body), {
    headers: headers(),
    timeout: `${timeoutS}s`,
    tags: { payload: type },
  });
  const usage = response.status === 200 ? usageOf(response) : null;
  answers.add(usage !== null, { payload: type });
  if (usage === null) {
    return;
  }
  duration.add(response.timings.duration, { payload: type });
  outputTokens.add(usage.completion_tokens, { payload: type });
  promptTokens.add(usage.prompt_tokens, { payload: type });
  tokensPerSecond.add((usage.completion_tokens * 1000) / response.timings.duration, { payload: type });
}

function firstModel() {
  const response = http.get(`${base}/v1/models`, { headers: headers(), timeout: "30s" });
  if (response.status !== 200) {
    fail(`${base}/v1/models answered ${response.status || response.error}: is BASE_URL right, and API_KEY? Or set MODEL`);
  }
  const models = jsonOf(response);
  if (!models || !models.data || !models.data.length) {
    fail(`${base}/v1/models names no model: set MODEL`);
  }
  return models.data[0].id;
}

function headers() {
  const sent = { "Content-Type": "application/json" };
  if (__ENV.API_KEY) {
    sent.Authorization = `Bearer ${__ENV.API_KEY}`;
  }
  return sent;
}

// The usage of a whole answer; null where it is none.
function usageOf(response) {
  const answer = jsonOf(response);
  const choice = answer && answer.choices && answer.choices[0];
  return choice && choice.finish_reason && answer.usage ? answer.usage : null;
}

function jsonOf(response) {
  try {
    return response.json();
  } catch (_) {
    return null;
  }
}

function number(name, usual, least, most) {
  const text = __ENV[name];
  const value = text ? Number(text) : usual;
  if (!(value >= least && value <= most)) {
    throw new Error(`${name}: "${text}" is no number from ${least} to ${most}`);
  }
  return value;
}

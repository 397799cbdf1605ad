// The plan of a job; until it exists, the requested values of the spec.

import { $, el, setFacts, setText } from "./dom.js";
import { assignments, number, plural } from "./format.js";

const TEXT_FORMATS = {
  chat: "chat: prompt and reply are turns of the chat template",
  raw: "raw: prompt and reply are joined as they are",
};

export function showPlan({ spec, plan }) {
  $("no-plan").hidden = plan !== null;
  $("raw").hidden = plan === null;
  setFacts($("plan"), plan ? planFacts(spec, plan) : specFacts(spec));
  if (plan) setText($("raw-plan"), JSON.stringify({ lora: plan.lora, reward: plan.reward }, null, 2));
}

function specFacts(spec) {
  return [
    ["LoRA", `rank ${spec.lora.r}, alpha ${spec.lora.alpha}, dropout ${spec.lora.dropout}`],
    ["Learning rate", number(spec.training.learning_rate)],
    ["Length", length(spec.training.max_steps, spec.training.epochs)],
    ["Batch", plural(spec.training.batch_size, "pair")],
    ["Training data", dataset(spec.train_dataset)],
  ];
}

function planFacts(spec, { lora, reward, data, ...plan }) {
  const [passes, pairs] = [reward.gradient_accumulation_steps, reward.per_device_train_batch_size];
  const percentage = (100 * plan.trainable_parameters) / plan.total_parameters;
  const variants = [lora.use_dora && "DoRA", lora.use_rslora && "rsLoRA"].filter(Boolean);
  return [
    ["Architecture", plan.architecture],
    ["Revision", plan.base_model.revision && el("code", { class: "hash" }, plan.base_model.revision)],
    ["LoRA", [`rank ${lora.r}`, `alpha ${lora.lora_alpha}`, `dropout ${lora.lora_dropout}`, ...variants].join(", ")],
    ["Adapted layers", layerNames(lora.target_modules)],
    ["Trained and saved in full", plan.head_modules.join(", ")],
    ["Trainable", `${number(plan.trainable_parameters)} of ${number(plan.total_parameters)} parameters (${Number(percentage.toPrecision(2))} %)`],
    ["Learning rate", `${number(reward.learning_rate)}, ${reward.lr_scheduler_type}`],
    ["Length", length(reward.max_steps > 0 ? reward.max_steps : null, reward.num_train_epochs)],
    ["Batch", `${plural(pairs * passes, "pair")} per step${passes > 1 ? `, ${pairs} per forward pass` : ""}`],
    ["Maximum length", `${number(plan.tokenization.max_length)} tokens`],
    ["Texts", TEXT_FORMATS[plan.tokenization.text_format]],
    ["Template variables", assignments(plan.tokenization.chat_template_kwargs ?? {})],
    ["Training data", el("span", {}, dataset(data.train.id), ` ${plural(data.train.pair_count, "pair")}`)],
    ["Held out", heldOut(data)],
    ["Engine", [plan.engine, `precision ${plan.precision}`, `quantization ${plan.quantization}`].join(", ")],
    ["Seed", String(reward.seed)],
  ];
}

/** Lists module names; a long list only by the last parts of the names. */
function layerNames(targets) {
  const names = [].concat(targets).sort();
  if (names.length <= 12) return names.join(", ");
  const lastParts = [...new Set(names.map((name) => name.split(".").at(-1)))];
  return `${plural(names.length, "module")}: ${lastParts.join(", ")}`;
}

function length(steps, epochs) {
  return steps ? plural(steps, "step") : plural(epochs, "epoch");
}

function dataset(id) {
  return el("a", { href: `/datasets/${id}` }, el("code", {}, id));
}

function heldOut(data) {
  if (data.eval) return el("span", {}, dataset(data.eval.id), ` ${plural(data.eval.pair_count, "pair")}`);
  return data.eval_fraction ? `${number(100 * data.eval_fraction)} % of the training data` : "nothing";
}

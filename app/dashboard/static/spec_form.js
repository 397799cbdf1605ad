// A form for a job spec, generated from the schema of the spec in the API's OpenAPI document.

import { el, setOrHide } from "./dom.js";

const LONGEST_LINE = 1024; // a field for longer texts has several lines
const FIRST = ["name", "base_model", "train_dataset", "eval_dataset"];

/**
 * Returns `{node, read, changes, fill, showProblems}`. `choices` are lists of `[value, label]` for fields whose
 * values are ids. An empty field has its default.
 */
export function makeSpecForm(document, choices) {
  const parts = document.components.schemas;
  const { properties, required } = parts.RewardJobSpec;
  const fields = new Map();
  const add = (path, schema, isRequired) => {
    const field = makeField(path, schema, parts, choices[path], isRequired);
    fields.set(path, field);
    return field.node;
  };
  const plain = [];
  const groups = [];
  const names = [...FIRST, ...Object.keys(properties).filter((name) => !FIRST.includes(name))];
  for (const name of names) {
    const part = partOf(properties[name], parts);
    if (part?.properties && !(name in choices)) {
      const inner = Object.entries(part.properties).filter(([, schema]) => schema.const === undefined);
      groups.push(
        el(
          "details",
          { class: "card" },
          el("summary", {}, el("h2", {}, name)),
          el("p", { class: "muted" }, part.description ?? ""),
          el("div", { class: "fields" }, ...inner.map(([key, schema]) => add(`${name}/${key}`, schema, false))),
        ),
      );
    } else plain.push(add(name, properties[name], required.includes(name)));
  }
  const node = el("div", {}, el("section", { class: "card" }, el("div", { class: "fields" }, ...plain)), ...groups);
  return {
    node,
    /** Returns the spec with the fields that have a value. Throws an Error that names a field. */
    read() {
      const spec = {};
      for (const [path, { read }] of fields) {
        const value = read();
        if (value === undefined) continue;
        const [group, key] = path.split("/");
        if (key) (spec[group] ??= {})[key] = value;
        else spec[group] = value;
      }
      return spec;
    },
    /** Returns the fields whose values differ from those of a spec; null stands for a default. */
    changes(spec) {
      const found = {};
      for (const [path, { read, fallback }] of fields) {
        const [group, key] = path.split("/");
        const before = (key ? spec[group]?.[key] : spec[group]) ?? null;
        const value = read();
        if (JSON.stringify(value ?? fallback) === JSON.stringify(before)) continue;
        if (key) (found[group] ??= {})[key] = value ?? null;
        else found[group] = value ?? null;
      }
      return found;
    },
    /** Shows the values of a spec that differ from the defaults. */
    fill(spec) {
      for (const [path, { fill }] of fields) {
        const [group, key] = path.split("/");
        fill(key ? spec[group]?.[key] : spec[group]);
      }
    },
    /** Shows problems at their fields; returns those that have no field. */
    showProblems(problems) {
      const rest = [];
      for (const { setProblem } of fields.values()) setProblem("");
      for (const problem of problems) {
        const [, group, key] = problem.loc.split("/");
        const field = fields.get(`${group}/${key}`) ?? fields.get(group);
        if (field) field.setProblem(`${problem.message} ${problem.hint ?? ""}`);
        else rest.push(problem);
      }
      for (const group of groups) if (group.querySelector("[aria-invalid=true]")) group.open = true;
      return rest;
    },
  };
}

function makeField(path, schema, parts, choices, isRequired) {
  const id = `field-${path.replace("/", "-")}`;
  const name = path.split("/").at(-1);
  const forms = formsOf(schema, parts);
  const shown = schema.default === undefined || schema.default === null ? "" : text(schema.default);
  const input = makeInput(id, forms, choices, shown, isOfLines(forms));
  const error = el("span", { class: "error", id: `${id}-error` });
  error.hidden = true;
  input.setAttribute("aria-describedby", `${id}-help ${id}-error`);
  if (isRequired) input.setAttribute("aria-required", "true");
  const help = el("span", { class: "muted help", id: `${id}-help` }, [schema.description, bounds(forms)].filter(Boolean).join(" "));
  const node = el("div", { class: "field" }, el("label", { for: id }, name), input, help, error);
  let filled = null; // the given value with the text that shows it
  return {
    node,
    fallback: schema.default ?? null,
    read: () => {
      // A text that nobody changed stands for the value that was given: no control shows every text as it is.
      if (filled && input.value === filled.shown) return filled.value;
      if (input.value.trim() === "") return undefined;
      return parse(isOfLines(forms) ? input.value : input.value.trim(), forms, name);
    },
    fill: (value) => {
      const isDefault = value === undefined || value === null || JSON.stringify(value) === JSON.stringify(schema.default);
      if (!isDefault && choices && !choices.some(([known]) => known === value)) input.append(el("option", { value }, value)); // it was removed
      input.value = isDefault ? "" : text(value);
      filled = isDefault ? null : { value, shown: input.value };
    },
    setProblem: (message) => {
      setOrHide(error, message);
      input.setAttribute("aria-invalid", message ? "true" : "false");
    },
  };
}

function makeInput(id, forms, choices, shown, hasLines) {
  const values = choices ?? (forms.every((form) => form.enum || form.type === "boolean") ? forms.flatMap(options) : null);
  if (values) {
    const first = el("option", { value: "" }, shown ? `default: ${shown}` : "–");
    return el("select", { id }, first, ...values.map(([value, label]) => el("option", { value }, label)));
  }
  if (hasLines || forms.some((form) => form.type === "object")) return el("textarea", { id, rows: "2", spellcheck: "false", placeholder: shown });
  return el("input", { id, placeholder: shown, spellcheck: "false", autocomplete: "off" });
}

/** Returns whether the value may be a text of several lines, such as a template. */
function isOfLines(forms) {
  return forms.some((form) => form.type === "string" && form.maxLength > LONGEST_LINE);
}

function options(form) {
  return (form.enum ?? [true, false]).map((value) => [String(value), String(value)]);
}

/** Returns the schemas of the values of a field, without null. */
function formsOf(schema, parts) {
  const nested = schema.anyOf ?? schema.oneOf;
  if (nested) return nested.flatMap((choice) => formsOf(choice, parts));
  if (schema.$ref) return [{ type: "object", ...partOf(schema, parts) }];
  if (schema.const !== undefined) return [{ enum: [schema.const], type: schema.type }];
  return schema.type === "null" ? [] : [schema];
}

function partOf(schema, parts) {
  return schema?.$ref && parts[schema.$ref.split("/").at(-1)];
}

function bounds(forms) {
  const signs = { minimum: "≥", exclusiveMinimum: ">", maximum: "≤", exclusiveMaximum: "<" };
  const found = forms.map((form) => Object.entries(signs).filter(([key]) => key in form).map(([key, sign]) => `${sign} ${form[key]}`).join(", "));
  const names = forms.length > 1 ? forms.flatMap((form) => form.enum ?? []).map(String) : [];
  return [...names, ...found].filter(Boolean).join(" or ");
}

function text(value) {
  if (Array.isArray(value)) return value.join(", ");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** Returns whether JSON from this page can hold the number that a text stands for. Infinity would become null. */
function isExact(value) {
  const found = Number(value);
  return value !== "" && Number.isFinite(found) && (!Number.isInteger(found) || Number.isSafeInteger(found));
}

/** Returns the value that a text stands for, by the forms that the field allows. */
function parse(value, forms, name) {
  const types = new Set(forms.map((form) => form.type));
  for (const form of forms) for (const choice of form.enum ?? []) if (String(choice) === value) return choice;
  if (types.has("boolean") && ["true", "false"].includes(value)) return value === "true";
  if ((types.has("integer") || types.has("number")) && isExact(value)) return Number(value);
  if (types.has("object") && value.startsWith("{")) {
    try {
      return JSON.parse(value);
    } catch {
      throw new Error(`${name} is not valid JSON.`);
    }
  }
  if (types.has("array")) return value.split(",").map((part) => part.trim()).filter(Boolean);
  return value; // the service says what is wrong with it
}

"use strict";
// A reading page over openapi.json: what is here is only text nodes, so nothing in the document can become markup.
const make = (name, ...children) => {
  const element = document.createElement(name);
  element.append(...children.filter((child) => child !== undefined && child !== null));
  return element;
};
const withClass = (name, element) => {
  element.className = name;
  return element;
};
const reference = (schema) => (schema && schema.$ref ? schema.$ref.split("/").pop() : null);

const describe = (schema) => {
  if (!schema) return "";
  const named = reference(schema);
  if (named) return named;
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const several = schema.oneOf || schema.anyOf;
  if (several) return several.map(describe).join(" | ");
  if (schema.type === "array") return describe(schema.items) + "[]";
  const kind = Array.isArray(schema.type) ? schema.type.join(" | ") : schema.type || "any";
  return schema.format ? `${kind} (${schema.format})` : kind;
};

const row = (...cells) => make("tr", ...cells.map((cell) => make("td", cell)));

const parameters = (operation) => {
  const list = operation.parameters || [];
  if (list.length === 0) return null;
  const rows = list.map((one) =>
    row(make("code", one.name), one.in + (one.required ? ", required" : ""), describe(one.schema), one.description || ""));
  return make("div", make("h4", "Parameters"), make("table", ...rows));
};

const body = (operation) => {
  if (!operation.requestBody) return null;
  const kinds = Object.entries(operation.requestBody.content);
  const rows = kinds.map(([kind, content]) => row(make("code", kind), describe(content.schema)));
  return make("div", make("h4", "Body"), make("table", ...rows));
};

const answers = (operation) => {
  const rows = Object.entries(operation.responses).map(([status, answer]) => {
    const kinds = Object.entries(answer.content || {});
    const shown = kinds.map(([kind, content]) => `${kind}: ${describe(content.schema)}`).join("\n");
    return row(make("code", status), answer.description || "", shown);
  });
  return make("div", make("h4", "Answers"), make("table", ...rows));
};

const show = (api) => {
  const contents = document.getElementById("contents");
  const page = document.getElementById("page");
  page.replaceChildren(make("h1", `${api.info.title} ${api.info.version}`), make("p", api.info.description || ""));
  const link = (text, id) => {
    const anchor = make("a", text);
    anchor.href = `#${id}`;
    return anchor;
  };
  for (const tag of api.tags || []) {
    contents.append(make("h2", tag.name));
    page.append(make("h2", tag.name), make("p", tag.description || ""));
    for (const [path, item] of Object.entries(api.paths)) {
      for (const [method, operation] of Object.entries(item)) {
        if (!(operation.tags || []).includes(tag.name)) continue;
        contents.append(link(`${method.toUpperCase()} ${path}`, operation.operationId));
        const title = make("h3", withClass("method", make("span", method)), " ", make("code", path));
        title.id = operation.operationId;
        page.append(make("section", title, make("p", operation.summary || ""), make("p", operation.description || ""),
          parameters(operation), body(operation), answers(operation)));
      }
    }
  }
  contents.append(make("h2", "schemas"));
  page.append(make("h2", "Schemas"));
  for (const [name, schema] of Object.entries(api.components.schemas)) {
    contents.append(link(name, `schema-${name}`));
    const title = make("h3", make("code", name));
    title.id = `schema-${name}`;
    page.append(make("section", title, make("p", schema.description || ""), make("pre", JSON.stringify(schema, null, 2))));
  }
};

fetch("openapi.json")
  .then((answer) => answer.json())
  .then(show)
  .catch((error) => document.getElementById("page").replaceChildren(make("p", `The description could not be read: ${error}`)));

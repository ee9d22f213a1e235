// The page at GET /graphql: runs what stands in the field, and shows the schema. Without it, the form still asks by GET.
'use strict';

const form = document.getElementById('ask');
const field = form.elements.query;
const answer = document.getElementById('answer');
const schema = document.getElementById('schema');
let live;

function show(text) {
  answer.textContent = text;
}

async function post(query) {
  const headers = { 'content-type': 'application/json', accept: 'application/graphql-response+json' };
  const response = await fetch('/graphql', { method: 'POST', headers, body: JSON.stringify({ query }) });
  return response.json();
}

// A subscription goes on until the next run: an EventSource comes again by itself, after the last batch it got.
function subscribe(query) {
  const lines = [];
  live = new EventSource('/graphql?' + new URLSearchParams({ query }));
  live.addEventListener('next', (event) => {
    lines.unshift(JSON.stringify(JSON.parse(event.data), null, 2));
    lines.length = Math.min(lines.length, 100);
    show(lines.join('\n'));
  });
  live.addEventListener('complete', () => live.close());
  live.addEventListener('error', () => show(lines[0] ?? 'The connection is lost; trying again …'));
}

async function run() {
  live?.close();
  show('…');
  try {
    if (/^\s*subscription\b/.test(field.value)) subscribe(field.value);
    else show(JSON.stringify(await post(field.value), null, 2));
  } catch (error) {
    show(String(error));
  }
}

form.addEventListener('submit', (event) => {
  event.preventDefault();
  run();
});
field.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) run();
});
document.getElementById('examples').addEventListener('click', (event) => {
  const example = event.target.closest('a');
  if (!example) return;
  event.preventDefault();
  field.value = new URL(example.href).searchParams.get('query');
  scrollTo(0, 0);
  run();
});

function element(name, ...children) {
  const made = document.createElement(name);
  made.append(...children);
  return made;
}

// `[Event!]!`, with a link to the type.
function reference(type) {
  if (type.kind === 'NON_NULL') return element('span', reference(type.ofType), '!');
  if (type.kind === 'LIST') return element('span', '[', reference(type.ofType), ']');
  const link = element('a', type.name);
  link.href = '#type-' + type.name;
  return link;
}

function row({ name, description, type, args = [] }) {
  const given = args.flatMap((argument, n) => [n ? ', ' : '', argument.name + ': ', reference(argument.type)]);
  const left = element('td', name, ...(args.length ? ['(', ...given, ')'] : []), ...(type ? [': ', reference(type)] : []));
  return element('tr', left, element('td', description ?? ''));
}

function section(type) {
  const rows = type.fields ?? type.inputFields ?? type.enumValues ?? [];
  const made = element('section', element('h3', type.name), element('p', type.description ?? ''));
  made.id = 'type-' + type.name;
  if (rows.length) made.append(element('table', ...rows.map(row)));
  return made;
}

async function describe() {
  const named = 'kind name ofType { kind name ofType { kind name ofType { kind name } } }';
  const argument = `name description type { ${named} }`;
  const { data, errors } = await post(`{ __schema { types {
    kind name description fields { ${argument} args { ${argument} } } inputFields { ${argument} } enumValues { name description }
  } } }`);
  if (!data) throw new Error(errors[0].message);
  const rank = (type) => ['Query', 'Subscription', 'Event'].indexOf(type.name);
  const own = data.__schema.types.filter((type) => !type.name.startsWith('__'));
  const first = own.filter((type) => rank(type) >= 0).sort((one, two) => rank(one) - rank(two));
  schema.replaceChildren(...[...first, ...own.filter((type) => rank(type) < 0)].map(section));
}

describe().catch((error) => schema.replaceChildren(String(error.message)));

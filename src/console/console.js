// Keeps a page fresh: when the gateway says that something changed, the page is read again, and its parts marked
// `data-live` take the places of the old ones. A part that somebody is using stays as it is. Without this script,
// reloading does the same.
'use strict';

// Milliseconds between two readings, at least; a slow gateway is asked even less often.
const PAUSE = 2000;
const SHARE = 10;

const button = document.getElementById('live');
const parts = () => document.querySelectorAll('[data-live]');
let paused = false;
let connected = false;
let changed = false;
let reading = false;

function show() {
  button.hidden = false;
  button.dataset.state = paused ? 'paused' : connected ? 'live' : 'offline';
  button.textContent = paused ? 'Paused' : connected ? 'Live' : 'Offline';
  button.title = paused ? 'Go on updating this page' : 'Stop updating this page';
  button.setAttribute('aria-pressed', String(!paused));
}

function inUse(part) {
  if (part.contains(document.activeElement) || part.querySelector('details[open]')) return true;
  const selection = document.getSelection();
  return !selection.isCollapsed && part.contains(selection.anchorNode);
}

function replace(fresh) {
  for (const part of parts()) {
    const other = fresh.getElementById(part.id);
    if (!other || inUse(part) || other.outerHTML === part.outerHTML) continue;
    const scrolled = [...part.querySelectorAll('.scroll')].map((box) => box.scrollLeft);
    part.replaceWith(other);
    other.querySelectorAll('.scroll').forEach((box, n) => { box.scrollLeft = scrolled[n] ?? 0; });
  }
}

async function read() {
  if (reading || paused || !changed || document.hidden) return;
  reading = true;
  changed = false;
  const start = performance.now();
  try {
    const answer = await fetch(location.href, { headers: { accept: 'text/html' }, cache: 'no-store' });
    if (answer.ok) replace(new DOMParser().parseFromString(await answer.text(), 'text/html'));
  } catch {
    // The stream tells whether the gateway is there; the next change is another try.
  }
  const wait = Math.max(PAUSE, SHARE * (performance.now() - start));
  setTimeout(() => { reading = false; read(); }, wait);
}

if (parts().length > 0) {
  const stream = new EventSource('/console/stream');
  stream.addEventListener('open', () => { connected = true; show(); });
  stream.addEventListener('error', () => { connected = false; show(); });
  stream.addEventListener('change', () => { changed = true; read(); });
  document.addEventListener('visibilitychange', read);
  button.addEventListener('click', () => { paused = !paused; show(); read(); });
  show();
}

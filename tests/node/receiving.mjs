// What the library that docs/receiving.md shows makes of real calls: `calls.json` of a folder, a verdict for each.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { WebhookVerificationError } from "standardwebhooks";

const [folder] = process.argv.slice(2);
const { eventOf } = await import(pathToFileURL(`${folder}/verify.mjs`));

function forged(headers, body) {
  try {
    eventOf(headers, `${body} `);
    return "taken";
  } catch (error) {
    if (!(error instanceof WebhookVerificationError)) throw error;
    return "refused";
  }
}

const verdicts = JSON.parse(readFileSync(`${folder}/calls.json`)).map(({ headers, body }) => ({
  body: eventOf(headers, body),
  forged: forged(headers, body),
}));
console.log(JSON.stringify(verdicts));

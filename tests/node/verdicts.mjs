// Reads {"sdl", "documents"} from standard input, and prints for each document whether graphql-js finds it valid.
import { readFileSync } from 'node:fs';
import { buildSchema, parse, validate, validateSchema } from 'graphql';

const { sdl, documents } = JSON.parse(readFileSync(0, 'utf8'));
const schema = buildSchema(sdl);
const faults = validateSchema(schema);
if (faults.length > 0) throw new Error(faults.join('\n'));
const isValid = (text) => {
  try {
    return validate(schema, parse(text)).length === 0;
  } catch {
    return false;
  }
};
console.log(JSON.stringify(documents.map(isValid)));

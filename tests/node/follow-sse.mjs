// Follows the journal with graphql-sse and prints each batch as a line of JSON. After a lost connection it sends the last
// `id` as `Last-Event-ID`, as an EventSource does. Argument: the gateway's URL. Runs until it is killed.
import { createClient } from 'graphql-sse';

const url = process.argv[2];
let last;
const client = createClient({
  url: url + '/graphql',
  retryAttempts: 0,
  headers: () => (last ? { 'last-event-id': last } : {}),
  onMessage: ({ id }) => { if (id) last = id; },
});
const query = `subscription { events(from: { origin: BEGINNING }, batch: 10) { caughtUp events { id position type } } }`;

while (true) {
  try {
    for await (const { data, errors } of client.iterate({ query })) {
      if (errors) throw new Error(JSON.stringify(errors));
      const { caughtUp, events } = data.events;
      console.log(JSON.stringify({ caughtUp, positions: events.map((event) => Number(event.position)) }));
    }
  } catch (error) {
    console.error(error.message ?? error);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

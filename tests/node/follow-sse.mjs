// Follows the journal with graphql-sse and prints each batch as a line of JSON. After a lost connection it sends the last
// cursor as `Last-Event-ID`, as an EventSource does with the last `id`; graphql-sse itself does not look at ids. Argument: the gateway's URL. Runs until it is killed.
import { createClient } from 'graphql-sse';

const url = process.argv[2];
let last;
const client = createClient({
  url: url + '/graphql',
  retryAttempts: 0,
  headers: () => (last ? { 'last-event-id': last } : {}),
});
const query = `subscription { events(from: { origin: BEGINNING }, batch: 10) { cursor caughtUp events { id position type } } }`;

while (true) {
  try {
    for await (const { data, errors } of client.iterate({ query })) {
      if (errors) throw new Error(JSON.stringify(errors));
      const { cursor, caughtUp, events } = data.events;
      last = cursor;
      console.log(JSON.stringify({ caughtUp, positions: events.map((event) => Number(event.position)) }));
    }
  } catch (error) {
    console.error(error.message ?? error);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

// Calls every method of RoomServiceClient and AgentDispatchClient of LiveKit's server SDK: first
// with a token that grants nothing but joining, then with the one that the SDK makes. Takes the
// URL and the sid of anna's microphone, with anna and bob in the room; writes one line of JSON for
// each call: {"method": …, "allowed": "ok" or what went wrong, "denied": the error's code}.
// A line of input, or the end of the input, lets it go on to the next.
import assert from 'node:assert/strict';
import { createInterface } from 'node:readline';

import {
  AccessToken,
  AgentDispatchClient,
  DataPacket_Kind,
  RoomServiceClient,
  ServerError,
} from 'livekit-server-sdk';

const ROOM = 'server-sdk-js';
const OTHER_ROOM = 'server-sdk-js-2';
const KEY = 'devkey';
const SECRET = 'secret';

const [url, microphone] = process.argv.slice(2);
const input = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
let dispatch = '';

// Method, arguments, and what must be true of the result.
const ROOM_CALLS = [
  ['createRoom', () => [{ name: ROOM, emptyTimeout: 60, departureTimeout: 30, maxParticipants: 10, metadata: 'first' }],
    (room) => assert.deepEqual(
      [room.name, room.emptyTimeout, room.departureTimeout, room.maxParticipants, room.metadata],
      [ROOM, 60, 30, 10, 'first'])],
  ['listRooms', () => [[ROOM]], (rooms) => assert.deepEqual(rooms.map((room) => room.name), [ROOM])],
  ['updateRoomMetadata', () => [ROOM, 'second'], (room) => assert.equal(room.metadata, 'second')],
  ['listParticipants', () => [ROOM], (all) =>
    assert.deepEqual(all.map((one) => one.identity).sort(), ['anna', 'bob'])],
  ['getParticipant', () => [ROOM, 'anna'], (anna) =>
    assert.deepEqual(anna.tracks.map((track) => track.sid).includes(microphone), true)],
  ['updateParticipant', () => [ROOM, 'anna', { name: 'Anna', metadata: 'm', attributes: { role: 'host' } }],
    (anna) => assert.deepEqual([anna.name, anna.metadata, anna.attributes.role], ['Anna', 'm', 'host'])],
  ['mutePublishedTrack', () => [ROOM, 'anna', microphone, true], (track) => assert.equal(track.muted, true)],
  ['updateSubscriptions', () => [ROOM, 'bob', [microphone], false]],
  ['sendData', () => [ROOM, Buffer.from('hello'), DataPacket_Kind.RELIABLE,
    { topic: 'api', destinationIdentities: ['bob'] }]],
  ['forwardParticipant', () => [ROOM, 'anna', OTHER_ROOM]],
  ['moveParticipant', () => [ROOM, 'bob', OTHER_ROOM]],
  ['removeParticipant', () => [ROOM, 'anna']],
  ['deleteRoom', () => [ROOM]],
];
const DISPATCH_CALLS = [
  ['createDispatch', () => [ROOM, 'nobody', { metadata: 'm' }], (created) => {
    dispatch = created.id;
    assert.deepEqual([created.agentName, created.room, created.metadata], ['nobody', ROOM, 'm']);
  }],
  ['listDispatch', () => [ROOM], (all) => {
    // Each room has one without a name, for agents that serve every room.
    const named = all.filter((one) => one.agentName !== '');
    assert.deepEqual(named.map((one) => one.id), [dispatch]);
  }],
  ['getDispatch', () => [dispatch, ROOM], (one) => assert.equal(one.id, dispatch)],
  ['deleteDispatch', () => [dispatch, ROOM]],
];

/** A client whose tokens only let into the room. */
function powerless(Client) {
  return new (class extends Client {
    async authHeader() {
      const token = new AccessToken(KEY, SECRET, { identity: 'nobody' });
      token.addGrant({ roomJoin: true, room: ROOM });
      return { Authorization: `Bearer ${await token.toJwt()}` };
    }
  })(url, KEY, SECRET);
}

async function outcome(client, [method, options, check = () => {}]) {
  try {
    check(await client[method](...options()));
  } catch (error) {
    return error instanceof ServerError ? error.code : `${error}`;
  }
  return 'ok';
}

async function callAll(Client, calls) {
  const methods = Object.getOwnPropertyNames(Client.prototype).filter((name) => name !== 'constructor');
  assert.deepEqual(calls.map(([method]) => method).sort(), methods.sort(), 'each method is called once');
  const [allowed, denied] = [new Client(url, KEY, SECRET), powerless(Client)];
  for (const call of calls) {
    await input.next();
    const result = { method: call[0], denied: await outcome(denied, call), allowed: await outcome(allowed, call) };
    console.log(JSON.stringify(result));
  }
}

await callAll(AgentDispatchClient, DISPATCH_CALLS);
await callAll(RoomServiceClient, ROOM_CALLS);
process.stdin.destroy();

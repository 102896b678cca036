// The page: the entrance, then the call, then the entrance again.

import { ConnectionError } from 'livekit-client';
import { type Choices, runCall } from './call.ts';
import { byId } from './dom.ts';
import { type Grant, grantOfLink, GrantRefused, requestGrant } from './grant.ts';
import { linkTo, roomOfAddress } from './link.ts';

const NAME_KEY = 'livecluster.name';

const entrance = byId('entrance', HTMLElement);
const form = byId('entry-form', HTMLFormElement);
const problem = byId('entry-problem', HTMLElement);
const submit = form.querySelector('button');

start();

function start(): void {
  const invitation = grantOfLink(location);
  const room = field('room');
  const name = field('name');
  room.value = invitation?.room ?? roomOfAddress(location);
  name.value = localStorage.getItem(NAME_KEY) ?? '';
  if (invitation !== undefined) {
    // The token settles who one is and where one goes.
    room.readOnly = true;
    name.required = false;
    name.closest('label')?.remove();
  }
  (room.value === '' ? room : name).focus();
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    void enter(invitation);
  });
}

async function enter(invitation: Grant | undefined): Promise<void> {
  const room = field('room').value.trim();
  const choices: Choices = {
    microphone: field('microphone').checked,
    camera: field('camera').checked,
  };
  report(undefined);
  busy(true);
  try {
    const grant = invitation ?? (await requestFor(room));
    entrance.hidden = true;
    report(await runCall(grant, choices));
  } catch (error) {
    report(explainEntryFailure(error));
  } finally {
    entrance.hidden = false;
    busy(false);
    submit?.focus();
  }
}

async function requestFor(room: string): Promise<Grant> {
  const name = field('name').value.trim();
  const grant = await requestGrant(room, name);
  localStorage.setItem(NAME_KEY, name);
  history.replaceState(null, '', linkTo(room, location));
  return grant;
}

function explainEntryFailure(error: unknown): string {
  if (error instanceof GrantRefused) {
    return error.message;
  }
  if (error instanceof ConnectionError) {
    return `The room cannot be entered: ${error.message}`;
  }
  return `Something went wrong: ${error instanceof Error ? error.message : String(error)}`;
}

function field(name: string): HTMLInputElement {
  const input = form.elements.namedItem(name);
  if (!(input instanceof HTMLInputElement)) {
    throw new Error(`index.html lacks the field ${name}`);
  }
  return input;
}

function report(text: string | undefined): void {
  problem.textContent = text ?? '';
  problem.hidden = text === undefined;
}

function busy(busy: boolean): void {
  if (submit !== null) {
    submit.disabled = busy;
    submit.textContent = busy ? 'Joining…' : 'Join';
  }
}

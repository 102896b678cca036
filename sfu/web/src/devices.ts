// Device failures in words that tell what to do.

import { MediaDeviceFailure } from 'livekit-client';

/** A source that the person can switch on. */
export type Device = 'microphone' | 'camera' | 'screen';

/** What went wrong with `device`, or `undefined` where the person changed their mind. */
export function explainDeviceFailure(device: Device, error: unknown): string | undefined {
  if (!window.isSecureContext) {
    return `The browser gives no ${device} to a page that came without encryption. Open it by https.`;
  }
  const failure = error instanceof Error ? MediaDeviceFailure.getFailure(error) : undefined;
  switch (failure) {
    case MediaDeviceFailure.PermissionDenied:
      return device === 'screen'
        ? undefined
        : `The browser was not allowed to use the ${device}. Allow it in the address bar and switch it on again.`;
    case MediaDeviceFailure.NotFound:
      return `No ${device} was found. You can see and hear the others; connect one and switch it on.`;
    case MediaDeviceFailure.DeviceInUse:
      return `The ${device} is in use by another program. Close that and switch it on again.`;
    case MediaDeviceFailure.Other:
    case undefined:
      return `The ${device} did not start: ${error instanceof Error ? error.message : String(error)}`;
  }
}

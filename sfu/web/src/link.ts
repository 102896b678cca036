// The room in the page's address, so that a link can be passed on.

/** The room that the address names: `?room=…`, or the bare fragment `#…`. */
export function roomOfAddress(location: Location): string {
  const query = new URLSearchParams(location.search).get('room');
  if (query !== null) {
    return query;
  }
  const fragment = location.hash.slice(1);
  if (fragment.includes('=')) {
    return '';
  }
  try {
    return decodeURIComponent(fragment);
  } catch {
    return fragment;
  }
}

/** The link that leads others into `room`; it holds no token. */
export function linkTo(room: string, location: Location): string {
  const link = new URL(location.pathname, location.href);
  link.searchParams.set('room', room);
  return link.href;
}

/** The collections that the server has, as last heard. */

import { request } from "./api.js";
import { setNames } from "./filters.js";

let known = [];
let wasAsked = false;

/** The collections as last heard. */
export const collectionsNow = () => known;

/** Ask the server for its collections. */
export async function heard(signal) {
  known = (await request("GET", "/collections", { signal })).collections;
  wasAsked = true;
  setNames(known.map((one) => one.name));
  return known;
}

/** Whether there is no collection. */
export async function nothingYet(signal) {
  if (!wasAsked || !known.length) await heard(signal);
  return known.length === 0;
}

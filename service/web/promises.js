// What answers promise beyond their label, and whether the judged pictures bear it out.

import { h } from "./dom.js";
import * as format from "./format.js";
import { card, table } from "./parts.js";

/** Sets that hold the right class, and strangers that are told apart; null for evaluations older than the figures. */
export function promises({ prediction_sets: sets, out_of_distribution: alarms }) {
  const rows = [...(sets ?? []).map(ofSets), ...(alarms ?? []).map(ofAlarms)].filter((row) => row.expected);
  if (!rows.length) return null;
  const columns = [
    { title: "Asked for", value: (row) => row.asked },
    { title: "Came out", value: (row) => row.empirical.value, cell: (row) => share(row.empirical), numeric: true },
    { title: "Chance allows", value: (row) => row.expected.low, cell: (row) => range(row.expected), numeric: true },
    { title: "Promise", value: (row) => (row.kept ? "kept" : "not kept") },
  ];
  return card(
    "Does it keep what it promises?",
    table("Promises", columns, rows, false),
    h(
      "p.muted",
      {},
      "With ?coverage it names as many classes as it takes to hold the right one; of pictures unlike those it learned " +
        "from it abstains, and sometimes of one that is like them. Both hold for pictures like the judged ones.",
    ),
  );
}

const ofSets = (row) => ({
  ...row,
  asked: `the right class named for ${format.percent(row.coverage, 0)}: ${row.mean_size.toFixed(1)} classes on average`,
});
const ofAlarms = (row) => ({ ...row, asked: `at most ${format.percent(row.false_alarm, 0)} taken for strangers` });

const share = ({ value }) => format.percent(value);
const range = ({ low, high }) => `${format.percent(low)} to ${format.percent(high)}`;

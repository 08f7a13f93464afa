/* The path change of src/session (move.ts, session.ts, retired.ts), docs/protocol.md sections 10 and 11.
 *
 * Side 0 (P) opened the channel and proposes; side 1 (O) asks. Path 0 is shared memory, where each side reads the other's
 * ring in place, path 1 and 2 copy. One process makes one step of one side, or of the world, at a time: handlers of the
 * event loop are atomic.
 *
 * The air: a frame, once sent, stays in a set (a mask of epochs per type). It may be obeyed at any later time, again and
 * again, in any order, until it is lost: that is every delay, doubling and reordering there can be. Receiving is a step only
 * where it changes something, so that a state without a step is the calm after everything, which must be a good end.
 * What a side repeats until it is answered can be sent again once it was lost.
 *
 * Data: message k of a direction is number k. A ring holds the messages first … first + count − 1 as records 0 … count − 1;
 * got is what the application has really been given. Each side computes its counts as the code does.
 *
 * Budgets (-D): MESSAGES each way, WISHES of P, OWISHES of O, DROPS frames lost, TIMEOUTS of a MOVE that was only slow, REFUSALS,
 * LOSSES of a path (RETURNS of which come back; TORN: path 0 goes with its memory), DESTROYS, DEATHS (either side, at any
 * moment; a new life hears the old frames), CLOSING: both sides end behind their last message. */

#ifndef MESSAGES
#define MESSAGES 1
#endif
#ifndef WISHES
#define WISHES 0
#endif
#ifndef OWISHES
#define OWISHES 0
#endif
#ifndef DROPS
#define DROPS 0
#endif
#ifndef TIMEOUTS
#define TIMEOUTS 0
#endif
#ifndef REFUSALS
#define REFUSALS 0
#endif
#ifndef LOSSES
#define LOSSES 0
#endif
#ifndef RETURNS
#define RETURNS 0
#endif
#ifndef DESTROYS
#define DESTROYS 0
#endif
#ifndef DEATHS
#define DEATHS 0
#endif
#ifndef PATHS
#define PATHS 2
#endif
#ifdef CLOSING
#define RECORDS (MESSAGES + 1)   /* the last one is FIN */
#else
#define RECORDS MESSAGES
#endif

#define EPOCHS 8      /* as far as masks reach; 5 is the last that is used */
#define P 0
#define O 1
#define BIT(e) (1 << (e))
#define HAS(mask, e) (((mask) >> (e)) & 1)
#define AT(s, e) ((s) * EPOCHS + (e))
#define SHARED(e) (pathof[e] == 0)

#define OPEN 0
#define MOVING 1
#define CLOSED 2
#define DEAD 3

/* sides */
byte state[2];
byte epoch[2];
byte highest[2];      /* never proposed again, never obeyed */
byte sendbase[2];     /* counts at which the epoch began */
byte receivebase[2];
byte number[2];       /* records of this epoch that were delivered */
byte got[2];          /* messages that the application was given */
byte sent[2];         /* messages that were accepted */
byte retired[2];      /* mask of epochs whose ends wait to be let go */
byte freed[2];        /* mask of epochs whose memory was freed */
byte lease[2];        /* 1 + epoch of the ring in which the application holds a message */
byte wish[2];         /* 1 + path */
byte confirmed;       /* O: last epoch that P is known to be in */
byte candidate;       /* P: epoch that is proposed, 0: none */
byte next;            /* P: count when reading stopped */
bool closing[2];      /* says CLOSE */
bool peerclosing[2];
bool orderly[2];
bool resetting[2];

/* rings */
byte first[16];       /* AT(side, epoch): message in record 0 of the outbox */
byte count[16];

/* the air: masks of epochs */
byte move, moved, confirm, refuse;
byte movenext[EPOCHS], movednext[EPOCHS];
byte ask[4];          /* per wish: 1 + path; 0: anywhere */
byte refuseask;
byte done[2];         /* RETIRE DONE, by sender; the question is answered where it is asked: asking later is arriving later */
bool close[2], closedframe[2], reset[2];

/* the world */
byte pathof[EPOCHS];
byte broken;          /* mask of epochs whose path was lost (a path that returns is another one) */
bool up[PATHS];
byte unheard[2];      /* 1 + path whose loss this side has not heard of */
byte wishes[2];
byte drops, timeouts, refusals, losses, returns, destroys, deaths;
bool excused;         /* something happened after which messages may be missing */

#define LOST(s, e) (HAS(broken, e) && unheard[s] != 1 + pathof[e])
#define KNOWSUP(s, p) (up[p] || unheard[s] == 1 + (p))
#if PATHS == 3
#define NOWAY(s) (!KNOWSUP(s, 0) && !KNOWSUP(s, 1) && !KNOWSUP(s, 2))
#define ANYUP (up[0] || up[1] || up[2])
#else
#define NOWAY(s) (!KNOWSUP(s, 0) && !KNOWSUP(s, 1))
#define ANYUP (up[0] || up[1])
#endif
#define ALIVE(s) (state[s] == OPEN || state[s] == MOVING)
#ifdef MUTANT_READ_ON
#define READING(s) ALIVE(s)
#else
#define READING(s) (state[s] == OPEN)
#endif
#ifdef MUTANT_DONE_WITH_LEASE
#define LETGO(s, e) true
#else
#define LETGO(s, e) (lease[s] != 1 + e)
#endif
#ifdef MUTANT_DONE_FOR_CANDIDATE
#define NOTPROPOSED(s, e) true
#else
#define NOTPROPOSED(s, e) (s == O || candidate == 0 || candidate != e)
#endif
#ifdef MUTANT_CONFIRM_ONCE
#define CONFIRMS_AGAIN false
#else
#define CONFIRMS_AGAIN true
#endif
#ifdef MUTANT_FREE_AT_ONCE
#define ANSWERED(t, e) true
#else
#define ANSWERED(t, e) HAS(done[t], e)
#endif
#define DONEREADING(s) (got[s] == RECORDS)

inline over(s) {
  state[s] = CLOSED;
  retired[s] = retired[s] | BIT(epoch[s]);
  if
  :: s == P && candidate != 0 -> retired[P] = retired[P] | BIT(candidate); candidate = 0
  :: else
  fi;
  wish[s] = 0; closing[s] = 0; peerclosing[s] = 0; confirmed = (s == O -> 0 : confirmed)
}

inline propose(p) {
  e = (epoch[P] > highest[P] -> epoch[P] : highest[P]) + 1;
  assert(e <= 5);                /* the budgets are too large for this model */
  highest[P] = e;
  if
  :: state[P] == OPEN -> state[P] = MOVING; next = receivebase[P] + number[P]
  :: else
  fi;
  pathof[e] = p; candidate = e; broken = (up[p] -> broken : broken | BIT(e)); e = 0;
  move = move | BIT(candidate); movenext[candidate] = next
#ifdef MUTANT_RESUME_AT_BASE
  ; movenext[candidate] = receivebase[P]
#endif
}

/* What can have no effect any more takes its first value again: fewer states to tell apart. */
inline forget(s, to) {
  if
  :: s == O -> move = (move >> to) << to
  :: else ->
#ifndef MUTANT_OLD_EPOCHS
     moved = 0;
#endif
     ask[0] = ask[0] & BIT(to); ask[1] = ask[1] & BIT(to); ask[2] = ask[2] & BIT(to); ask[3] = ask[3] & BIT(to);
     confirm = 0; refuse = 0; refuseask = 0;
     i = epoch[P];
     do
     :: i < to -> first[AT(P, i)] = 0; count[AT(P, i)] = 0; first[AT(O, i)] = 0; count[AT(O, i)] = 0; movenext[i] = 0; i++
     :: else -> break
     od;
     i = 0
  fi
}

/* #switch: both counts are known, what the other side has not had is copied */
inline change(s, to, remotenext, own) {
  assert(to > epoch[s]);         /* epochs never go back */
  assert(s == O || epoch[O] >= to); /* P follows; nobody but this life of O has led */
  assert(!SHARED(to) || !HAS(freed[1 - s], to) || state[1 - s] == DEAD);
  assert(remotenext >= sendbase[s] && remotenext - sendbase[s] <= count[AT(s, epoch[s])]);
  first[AT(s, to)] = first[AT(s, epoch[s])] + (remotenext - sendbase[s]);
  count[AT(s, to)] = count[AT(s, epoch[s])] - (remotenext - sendbase[s]);
#ifdef MUTANT_NO_COPY
  first[AT(s, to)] = first[AT(s, epoch[s])] + count[AT(s, epoch[s])];
  count[AT(s, to)] = 0;
#endif
  sendbase[s] = remotenext; receivebase[s] = own; number[s] = 0;
  retired[s] = retired[s] | BIT(epoch[s]);
  forget(s, to);
  epoch[s] = to; state[s] = OPEN
}

inline abandon() {
  retired[P] = retired[P] | BIT(candidate);
#ifdef MUTANT_BACK_TO_OLD
  state[P] = OPEN;
#endif
  candidate = 0
}

inline free(s, e) {
  assert(!SHARED(e) || HAS(broken, e) || state[1 - s] == DEAD || lease[1 - s] != 1 + e);
  freed[s] = freed[s] | BIT(e);
  retired[s] = retired[s] & (255 - BIT(e))
}

#ifdef MUTANT_NO_FORBID
#define FORBID(s, e) skip
#else
#define FORBID(s, e) highest[s] = (e > highest[s] -> e : highest[s])
#endif
#ifdef MUTANT_OLD_EPOCHS
#define MOVEDFOR(e) (moved != 0)
#else
#define MOVEDFOR(e) (HAS(moved, e) && !HAS(broken, e))
#endif

inline answered() {
  e = candidate; k = movednext[e];
#ifdef MUTANT_OLD_EPOCHS
  if
  :: HAS(moved, 1) -> k = movednext[1]
  :: else -> if :: HAS(moved, 2) -> k = movednext[2] :: else fi
  fi
#endif
}

inline take(s, t) {
  assert(!SHARED(epoch[s]) || HAS(broken, epoch[s]) || !HAS(freed[t], epoch[s]) || state[t] == DEAD);
  assert(first[AT(t, epoch[s])] + number[s] == got[s]);   /* nothing lost, doubled, reordered */
  number[s]++; got[s]++
}

inline lose(p) {
  up[p] = 0; unheard[P] = 1 + p; unheard[O] = 1 + p;
  e = 0;
  do
  :: e <= highest[P] && e < EPOCHS -> if :: pathof[e] == p -> broken = broken | BIT(e) :: else fi; e++
  :: else -> break
  od;
  e = 0
}

/* path 0 is memory that goes with what is in it */
inline torn(s) {
#ifdef TORN
  if
  :: ALIVE(s) && p == 0 && pathof[epoch[s]] == 0 && HAS(broken, epoch[s]) -> excused = 1; orderly[s] = 0; resetting[s] = 1; over(s)
  :: else
  fi
#else
  skip
#endif
}

#define GOOD ( \
  (!ALIVE(P) || !ALIVE(O) || (state[P] == OPEN && state[O] == OPEN && epoch[P] == epoch[O] && !HAS(broken, epoch[P]))) \
  && ((state[P] != OPEN) == (state[O] != OPEN)) \
  && wish[P] == 0 && wish[O] == 0 && retired[P] == 0 && retired[O] == 0 \
  && (excused || (got[P] == RECORDS && got[O] == RECORDS)))

/* Steps are macros over sides, epochs and paths, so that every guard stands at the beginning of its step: a state in which
 * none is open is the end. */

#define RETIRE(s, t, e) \
  :: d_step { HAS(retired[s], e) && SHARED(e) && !HAS(done[s], e) && ANYUP && state[t] != DEAD && LETGO(s, e) -> done[s] = done[s] | BIT(e) } \
  :: d_step { HAS(retired[s], e) && lease[s] != 1 + e && (!SHARED(e) || ANSWERED(t, e) || LOST(s, e)) -> free(s, e) } \
  :: d_step { HAS(retired[t], e) && SHARED(e) && state[s] != DEAD && !HAS(done[s], e) && !HAS(retired[s], e) && (epoch[s] != e || state[s] == CLOSED) && NOTPROPOSED(s, e) && ANYUP -> \
       done[s] = done[s] | BIT(e); FORBID(s, e) }

#define SEND(s, t) \
  :: d_step { state[s] == OPEN && sent[s] < RECORDS && !peerclosing[s] && !LOST(s, epoch[s]) -> \
       sent[s]++; count[AT(s, epoch[s])]++ }

#ifdef LEASES
#define KEEPS true
#else
#define KEEPS false
#endif
#define READABLE(s, t) (READING(s) && number[s] < count[AT(t, epoch[s])] && epoch[t] >= epoch[s])

#define READ(s, t) \
  :: d_step { READABLE(s, t) -> take(s, t) } \
  :: d_step { KEEPS && READABLE(s, t) && lease[s] == 0 -> lease[s] = 1 + epoch[s]; take(s, t) } \
  :: d_step { lease[s] != 0 -> lease[s] = 0 }

#define CLOSE(s, t) \
  :: d_step { state[s] == OPEN && DONEREADING(s) && sent[s] == RECORDS && !closing[s] && !peerclosing[s] -> closing[s] = 1 } \
  :: d_step { closing[s] && state[s] == OPEN && !close[s] && ANYUP -> close[s] = 1 } \
  :: d_step { close[t] && ALIVE(s) && !peerclosing[s] -> peerclosing[s] = 1 } \
  :: d_step { peerclosing[s] && ALIVE(s) && DONEREADING(s) -> closedframe[s] = 1; over(s) } \
  :: d_step { closedframe[t] && ALIVE(s) && closing[s] -> over(s) } \
  :: d_step { state[s] == CLOSED && orderly[s] && !closedframe[s] && ANYUP && ALIVE(t) && (close[t] || (s == O && candidate != 0 && HAS(move, candidate))) -> closedframe[s] = 1 }

#define BREAK(s, t) \
  :: d_step { destroys > 0 && ALIVE(s) -> destroys--; excused = 1; orderly[s] = 0; resetting[s] = 1; over(s) } \
  :: d_step { resetting[s] && !reset[s] && ANYUP && ALIVE(t) -> reset[s] = 1 } \
  :: d_step { reset[t] && ALIVE(s) -> orderly[s] = 0; over(s) } \
  :: d_step { ALIVE(s) && NOWAY(s) && returns == 0 && unheard[P] == 0 && unheard[O] == 0 -> excused = 1; orderly[s] = 0; resetting[s] = 1; over(s) } \
  :: d_step { unheard[s] != 0 -> p = unheard[s] - 1; unheard[s] = 0; torn(s); p = 0 } \
  :: d_step { deaths > 0 && ALIVE(s) -> deaths--; excused = 1; state[s] = DEAD; wish[s] = 0; lease[s] = 0; retired[s] = 0; closing[s] = 0 } \
  :: d_step { state[t] == DEAD && ALIVE(s) -> over(s); freed[s] = freed[s] | retired[s]; retired[s] = 0; resetting[s] = 0 } \
  :: d_step { state[t] == DEAD && state[s] == CLOSED && retired[s] != 0 -> freed[s] = freed[s] | retired[s]; retired[s] = 0; resetting[s] = 0 }

/* wishes, ways out of a lost path, and the question of O */
#define WAY(p) \
  :: d_step { wishes[P] > 0 && ALIVE(P) && wish[P] == 0 -> wishes[P]--; wish[P] = (state[P] == OPEN && !LOST(P, epoch[P]) && pathof[epoch[P]] == p -> 0 : 1 + p) } \
  :: d_step { wishes[O] > 0 && ALIVE(O) && wish[O] == 0 -> wishes[O]--; wish[O] = 1 + p } \
  :: d_step { state[P] == OPEN && wish[P] == 1 + p && !LOST(P, epoch[P]) && pathof[epoch[P]] != p && KNOWSUP(P, p) -> propose(p) } \
  :: d_step { ((state[P] == OPEN && LOST(P, epoch[P])) || (state[P] == MOVING && candidate == 0)) && KNOWSUP(P, p) -> propose(p) } \
  :: d_step { state[P] == OPEN && (HAS(ask[0], epoch[P]) || HAS(ask[1 + p], epoch[P])) && p != pathof[epoch[P]] && KNOWSUP(P, p) -> propose(p) } \
  :: d_step { state[P] == OPEN && HAS(ask[1 + p], epoch[P]) && !HAS(refuseask, epoch[P]) && !KNOWSUP(P, p) && ANYUP -> refuseask = refuseask | BIT(epoch[P]) } \
  :: d_step { losses > 0 && unheard[P] == 0 && unheard[O] == 0 && ALIVE(P) && ALIVE(O) && up[p] -> losses--; lose(p) } \
  :: d_step { returns > 0 && unheard[P] == 0 && unheard[O] == 0 && !up[p] -> returns--; up[p] = 1 }

#define MOVE(e) \
  :: d_step { state[O] == OPEN && HAS(move, e) && !HAS(broken, e) && e > epoch[O] && e > highest[O] -> \
       assert(!HAS(freed[P], e) || !SHARED(e)); \
       k = receivebase[O] + number[O]; moved = moved | BIT(e); movednext[e] = k; p = movenext[e]; \
       change(O, e, p, k); k = 0; p = 0 } \
  :: d_step { refusals > 0 && state[O] == OPEN && HAS(move, e) && !HAS(broken, e) && e > epoch[O] && e > highest[O] -> refusals--; refuse = refuse | BIT(e) }

#define LOSE(frames) :: d_step { drops > 0 && frames != 0 -> drops--; frames = 0 }
#define LOSE2(frames) :: d_step { drops > 0 && (frames[P] || frames[O]) -> drops--; frames[P] = 0; frames[O] = 0 }

active proctype world() {
  byte e, p, k, i;
  d_step {
    wishes[P] = WISHES; wishes[O] = OWISHES; drops = DROPS; timeouts = TIMEOUTS; refusals = REFUSALS;
    losses = LOSSES; returns = RETURNS; destroys = DESTROYS; deaths = DEATHS;
    orderly[P] = 1; orderly[O] = 1; confirmed = 0;
    e = 0;
    do :: e < PATHS -> up[e] = 1; e++ :: else -> break od;
    e = 0
  }
  do
  SEND(P, O) SEND(O, P) READ(P, O) READ(O, P)
  RETIRE(P, O, 0) RETIRE(P, O, 1) RETIRE(P, O, 2) RETIRE(P, O, 3) RETIRE(P, O, 4) RETIRE(P, O, 5)
  RETIRE(O, P, 0) RETIRE(O, P, 1) RETIRE(O, P, 2) RETIRE(O, P, 3) RETIRE(O, P, 4) RETIRE(O, P, 5)
#ifdef CLOSING
  CLOSE(P, O) CLOSE(O, P)
#endif
  BREAK(P, O) BREAK(O, P)
  WAY(0) WAY(1)
#if PATHS == 3
  WAY(2)
#endif
  MOVE(1) MOVE(2) MOVE(3) MOVE(4) MOVE(5)
  LOSE(move) LOSE(moved) LOSE(confirm) LOSE(refuse) LOSE(refuseask)
  LOSE2(done) LOSE2(close) LOSE2(closedframe) LOSE2(reset)
  :: d_step { drops > 0 && (ask[0] + ask[1] + ask[2] + ask[3] != 0) -> drops--; ask[0] = 0; ask[1] = 0; ask[2] = 0; ask[3] = 0 }

  /* ---- P: a wish comes true, or cannot ---------------------------------------------------------------------------- */
  :: d_step { wish[P] != 0 && state[P] == OPEN && !KNOWSUP(P, wish[P] - 1) -> wish[P] = 0 }
  /* MOVE again; and every way in which the candidate fails */
  :: d_step { candidate != 0 && !HAS(move, candidate) && !HAS(broken, candidate) -> move = move | BIT(candidate) }
  :: d_step { candidate != 0 && LOST(P, candidate) -> wish[P] = 0; abandon() }
  :: d_step { candidate != 0 && timeouts > 0 -> timeouts--; wish[P] = 0; abandon() }
  :: d_step { candidate != 0 && HAS(refuse, candidate) -> wish[P] = 0; abandon() }
  /* MOVED */
  :: d_step { candidate != 0 && state[P] == MOVING && MOVEDFOR(candidate) -> answered(); change(P, e, k, next); confirm = confirm | BIT(epoch[P]); candidate = 0; k = 0; e = 0; wish[P] = (wish[P] == 1 + pathof[epoch[P]] -> 0 : wish[P]) }
  /* once more CONFIRM, for an ASK_MOVE that wants what is */
  :: d_step { state[P] == OPEN && !LOST(P, epoch[P]) && !HAS(confirm, epoch[P]) && ANYUP && HAS(ask[1 + pathof[epoch[P]]], epoch[P]) && CONFIRMS_AGAIN ->
       confirm = confirm | BIT(epoch[P]) }

  /* ---- O ---------------------------------------------------------------------------------------------------------- */
  /* the same MOVED again */
  :: d_step { state[O] == OPEN && HAS(move, epoch[O]) && !HAS(moved, epoch[O]) && !HAS(broken, epoch[O]) && candidate == epoch[O] -> moved = moved | BIT(epoch[O]) }
  :: d_step { state[O] == OPEN && HAS(confirm, epoch[O]) && confirmed != epoch[O] -> confirmed = epoch[O]; wish[O] = (wish[O] == 1 + pathof[epoch[O]] && !LOST(O, epoch[O]) -> 0 : wish[O]) }
  :: d_step { wish[O] != 0 && state[O] == OPEN && !LOST(O, epoch[O]) && pathof[epoch[O]] == wish[O] - 1 && confirmed == epoch[O] -> wish[O] = 0 }
  :: d_step { wish[O] != 0 && state[O] == OPEN && !KNOWSUP(O, wish[O] - 1) -> wish[O] = 0 }
  :: d_step { wish[O] != 0 && state[O] == OPEN && HAS(refuseask, epoch[O]) -> wish[O] = 0 }
  :: d_step { wish[O] != 0 && state[O] == OPEN && !HAS(ask[wish[O]], epoch[O]) && ANYUP && (confirmed != epoch[O] || pathof[epoch[O]] != wish[O] - 1) ->
       ask[wish[O]] = ask[wish[O]] | BIT(epoch[O]) }
  :: d_step { wish[O] == 0 && state[O] == OPEN && LOST(O, epoch[O]) && !HAS(ask[0], epoch[O]) && ANYUP -> ask[0] = ask[0] | BIT(epoch[O]) }
#ifdef MUTANT_OLD_LIFE
  /* a new life of O takes the MOVE of the old one for its own */
  :: d_step { state[O] == DEAD && candidate != 0 && HAS(move, candidate) && !HAS(moved, candidate) -> moved = moved | BIT(candidate); movednext[candidate] = 0 }
#endif
  :: GOOD -> break
  od
}

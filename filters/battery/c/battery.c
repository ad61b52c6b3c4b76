/* The battery in C.
 *
 * `../README.md` says what it does. An instance serves many exchanges, one after the other, so a variable holds the
 * exchange's state, and `on_request_head`, the first hook of every exchange, sets it anew.
 *
 * Who frees: a hook owns its arguments. What it returns is freed by the generated code, so that must come from malloc
 * (or be empty). What an import returns is the caller's; what it is given stays the caller's. */

#include "battery.h"

#include <stdlib.h>
#include <string.h>

#include "json.h"

#define STRING(literal) ((battery_string_t){(uint8_t *)(literal), sizeof(literal) - 1})
#define BYTES(literal) ((battery_list_u8_t){(uint8_t *)(literal), sizeof(literal) - 1})

enum mode { MODE_ABSENT, MODE_SWAP, MODE_DROP, MODE_SPLIT, MODE_OTHER };

/* Lives as long as the instance. */
static battery_string_t mark;

/* Lives as long as the exchange. */
static struct {
    uint32_t seen; /* How many request heads: more than one shows a leak. */
    enum mode body_mode;
    enum mode response_mode;
    uint64_t request_bytes;
} state;

static void obey(battery_list_u8_t command, tamis_filter_types_request_verdict_t *verdict);
static void call(void);
static void count(void);
static void echo(void);
static void measure(void);
static enum mode take_mode(battery_string_t name);
static void set_header(battery_string_t name, battery_list_u8_t value);
static void remove_header(battery_string_t name);
static void set_attribute(battery_string_t name, battery_string_t value);
static tamis_filter_types_reply_t reply(uint16_t status, battery_list_u8_t body);
static void finish(battery_list_u8_t data, tamis_filter_types_end_verdict_t *verdict);
static void swap(battery_list_u8_t chunk);
static bool equals(battery_list_u8_t bytes, const char *text);
static void append(battery_list_u8_t *to, const void *bytes, size_t len);
static void append_text(battery_list_u8_t *to, const char *text);
static void append_number(battery_list_u8_t *to, uint64_t number);
static battery_list_u8_t joined(const char *before, battery_string_t after);

bool exports_tamis_filter_configure_configure(battery_string_t *config, battery_string_t *error) {
    bool found = json_string_member(config->ptr, config->len, "mark", &mark.ptr, &mark.len);
    battery_string_free(config);
    if (!found || mark.len == 0) {
        battery_string_dup(error, "battery: config.mark must be a non-empty string");
        return false;
    }
    return true;
}

void exports_tamis_filter_request_head_on_request_head(tamis_filter_types_request_verdict_t *verdict) {
    battery_list_u8_t command = {NULL, 0};
    battery_string_t name = STRING("x-battery-do");
    tamis_filter_request_header(&name, &command);
    remove_header(name);

    memset(&state, 0, sizeof state);
    state.body_mode = take_mode(STRING("x-battery-body"));
    state.response_mode = take_mode(STRING("x-battery-response"));
    state.seen++;

    set_header(STRING("x-battery"), (battery_list_u8_t){mark.ptr, mark.len});
    if (state.body_mode == MODE_ABSENT) tamis_filter_request_pass_body();
    obey(command, verdict);
    battery_list_u8_free(&command);
}

void exports_tamis_filter_held_body_on_held_body(battery_list_u8_t *body, bool complete,
                                                 tamis_filter_types_held_verdict_t *verdict) {
    battery_list_u8_t held = {NULL, 0};
    append_number(&held, body->len);
    append_text(&held, complete ? ":true" : ":false");
    set_header(STRING("x-held"), held);
    battery_list_u8_free(&held);

    for (size_t i = 0; i < body->len; i++) {
        if (body->ptr[i] >= 'a' && body->ptr[i] <= 'z') body->ptr[i] -= 'a' - 'A';
    }
    verdict->tag = TAMIS_FILTER_TYPES_HELD_VERDICT_REPLACE;
    verdict->val.replace = *body;
}

void exports_tamis_filter_request_body_on_request_body(battery_list_u8_t *chunk,
                                                       tamis_filter_types_body_verdict_t *verdict) {
    state.request_bytes += chunk->len;
    if (state.body_mode == MODE_SWAP) {
        swap(*chunk);
        verdict->tag = TAMIS_FILTER_TYPES_BODY_VERDICT_REPLACE;
        verdict->val.replace = *chunk;
        return;
    }
    battery_list_u8_free(chunk);
    verdict->tag = state.body_mode == MODE_DROP ? TAMIS_FILTER_TYPES_BODY_VERDICT_DROP
                                                : TAMIS_FILTER_TYPES_BODY_VERDICT_KEEP;
}

void exports_tamis_filter_request_body_on_request_end(exports_tamis_filter_request_body_list_field_t *trailers,
                                                      tamis_filter_types_end_verdict_t *verdict) {
    exports_tamis_filter_request_body_list_field_free(trailers);
    verdict->tag = TAMIS_FILTER_TYPES_END_VERDICT_KEEP;
    if (state.body_mode == MODE_SWAP) {
        battery_list_u8_t data = {NULL, 0};
        append_text(&data, "[");
        append_number(&data, state.request_bytes);
        append_text(&data, "]");
        finish(data, verdict);
    }
}

void exports_tamis_filter_response_head_on_response_head(tamis_filter_types_verdict_t *verdict) {
    battery_string_t name = STRING("x-battery-seen");
    battery_list_u8_t seen = {NULL, 0};
    tamis_filter_types_edit_error_t error;
    append_number(&seen, state.seen);
    append_text(&seen, ":");
    append(&seen, mark.ptr, mark.len);
    if (!tamis_filter_response_set_header(&name, &seen, &error)) __builtin_trap();
    battery_list_u8_free(&seen);

    if (state.response_mode == MODE_ABSENT) tamis_filter_response_pass_body();
    verdict->tag = TAMIS_FILTER_TYPES_VERDICT_PROCEED;
    if (tamis_filter_response_status() == 299) {
        verdict->tag = TAMIS_FILTER_TYPES_VERDICT_REPLY;
        verdict->val.reply = reply(503, BYTES("replaced\n"));
    }
}

void exports_tamis_filter_response_body_on_response_body(battery_list_u8_t *chunk,
                                                         tamis_filter_types_body_verdict_t *verdict) {
    if (state.response_mode == MODE_SWAP) {
        swap(*chunk);
        verdict->tag = TAMIS_FILTER_TYPES_BODY_VERDICT_REPLACE;
        verdict->val.replace = *chunk;
        return;
    }
    verdict->tag = TAMIS_FILTER_TYPES_BODY_VERDICT_KEEP;
    if (state.response_mode == MODE_SPLIT) {
        battery_list_u8_t *halves = calloc(2, sizeof *halves);
        if (halves == NULL) abort();
        size_t half = chunk->len / 2;
        append(&halves[0], chunk->ptr, half);
        append(&halves[1], chunk->ptr + half, chunk->len - half);
        verdict->tag = TAMIS_FILTER_TYPES_BODY_VERDICT_PIECES;
        verdict->val.pieces = (battery_list_list_u8_t){halves, 2};
    }
    battery_list_u8_free(chunk);
}

void exports_tamis_filter_response_body_on_response_end(exports_tamis_filter_response_body_list_field_t *trailers,
                                                        tamis_filter_types_end_verdict_t *verdict) {
    exports_tamis_filter_response_body_list_field_free(trailers);
    verdict->tag = TAMIS_FILTER_TYPES_END_VERDICT_KEEP;
    if (state.response_mode == MODE_SWAP) {
        battery_list_u8_t data = {NULL, 0};
        append_text(&data, "<end>");
        finish(data, verdict);
    }
}

void exports_tamis_filter_completion_on_completion(exports_tamis_filter_completion_outcome_t *outcome) {
    battery_list_u8_t bytes = {NULL, 0};
    append_number(&bytes, outcome->response_bytes);
    set_attribute(STRING("battery-bytes"), (battery_string_t){bytes.ptr, bytes.len});
    battery_list_u8_free(&bytes);
    battery_option_string_free(&outcome->reason);
    battery_option_string_free(&outcome->cluster);
    battery_option_string_free(&outcome->endpoint);
}

/* Does what the header `x-battery-do` said. */
static void obey(battery_list_u8_t command, tamis_filter_types_request_verdict_t *verdict) {
    verdict->tag = TAMIS_FILTER_TYPES_REQUEST_VERDICT_PROCEED;
    if (equals(command, "reply")) {
        verdict->tag = TAMIS_FILTER_TYPES_REQUEST_VERDICT_REPLY;
        verdict->val.reply = reply(418, BYTES("short and stout\n"));
        tamis_filter_types_list_header_t *headers = &verdict->val.reply.headers;
        headers->ptr = calloc(1, sizeof *headers->ptr);
        if (headers->ptr == NULL) abort();
        headers->len = 1;
        battery_string_dup(&headers->ptr->name, "x-from");
        append(&headers->ptr->value, mark.ptr, mark.len);
    } else if (equals(command, "trap")) {
        __builtin_trap();
    } else if (equals(command, "read")) {
        verdict->tag = TAMIS_FILTER_TYPES_REQUEST_VERDICT_READ_BODY;
        verdict->val.read_body = (tamis_filter_types_read_body_t){65536, TAMIS_FILTER_TYPES_OVER_MAX_REFUSE};
    } else if (equals(command, "read-on")) {
        verdict->tag = TAMIS_FILTER_TYPES_REQUEST_VERDICT_READ_BODY;
        verdict->val.read_body = (tamis_filter_types_read_body_t){16, TAMIS_FILTER_TYPES_OVER_MAX_CONTINUE};
    } else if (equals(command, "call")) {
        call();
    } else if (equals(command, "count")) {
        count();
    } else if (equals(command, "attr")) {
        set_attribute(STRING("battery"), mark);
    } else if (equals(command, "forbidden")) {
        static const char *const names[] = {"invalid", "forbidden", "too-large", "too-late"};
        tamis_filter_types_edit_error_t error;
        battery_string_t name = STRING("content-length");
        battery_list_u8_t value = BYTES("5"), edit = {NULL, 0};
        bool edited = tamis_filter_request_set_header(&name, &value, &error);
        append_text(&edit, edited ? "ok" : names[error]);
        set_header(STRING("x-edit"), edit);
        battery_list_u8_free(&edit);
    } else if (equals(command, "echo")) {
        echo();
    } else if (equals(command, "metrics")) {
        measure();
    } else if (equals(command, "log")) {
        battery_list_u8_t line = joined("battery says ", mark);
        tamis_filter_log_write(TAMIS_FILTER_LOG_LEVEL_INFO, &(battery_string_t){line.ptr, line.len});
        battery_list_u8_free(&line);
    } else if (equals(command, "time")) {
        if (tamis_filter_clock_now_ms() > 1600000000000) set_header(STRING("x-time-ok"), BYTES("1"));
    } else if (equals(command, "random")) {
        battery_list_u8_t random, len = {NULL, 0};
        tamis_filter_random_bytes(16, &random);
        append_number(&len, random.len);
        set_header(STRING("x-random-len"), len);
        battery_list_u8_free(&random);
        battery_list_u8_free(&len);
    }
}

static void call(void) {
    static const char *const names[] = {"not-granted", "invalid",     "too-many", "too-large",
                                        "timed-out",   "unreachable", "broken"};
    battery_list_u8_t target = joined("/side?from=", mark), side = {NULL, 0};
    tamis_filter_outbound_call_t call = {
        .cluster = STRING("side"),
        .method = STRING("GET"),
        .target = {target.ptr, target.len},
    };
    tamis_filter_outbound_answer_t answer;
    tamis_filter_outbound_call_error_t error;
    if (tamis_filter_outbound_send(&call, &answer, &error)) {
        append_number(&side, answer.status);
        append_text(&side, ":");
        append(&side, answer.body.ptr, answer.body.len);
        tamis_filter_outbound_answer_free(&answer);
    } else {
        append_text(&side, "error:");
        append_text(&side, names[error]);
    }
    set_header(STRING("x-side"), side);
    battery_list_u8_free(&side);
    battery_list_u8_free(&target);
}

static void count(void) {
    battery_string_t key = STRING("count");
    battery_list_u8_t text = {NULL, 0};
    int64_t sum;
    tamis_filter_key_value_store_error_t error;
    if (tamis_filter_key_value_add(&key, 1, NULL, &sum, &error)) {
        if (sum < 0) append_text(&text, "-");
        append_number(&text, sum < 0 ? -(uint64_t)sum : (uint64_t)sum);
    } else {
        append_text(&text, "error:too-large"); /* The only one there is. */
    }
    set_header(STRING("x-count"), text);
    battery_list_u8_free(&text);
}

static void echo(void) {
    battery_string_t name = STRING("x-multi");
    battery_list_list_u8_t values;
    battery_list_u8_t all = {NULL, 0};
    tamis_filter_request_header_values(&name, &values);
    for (size_t i = 0; i < values.len; i++) {
        if (i > 0) append_text(&all, "|");
        append(&all, values.ptr[i].ptr, values.ptr[i].len);
    }
    set_header(STRING("x-joined"), all);
    battery_list_u8_free(&all);
    battery_list_list_u8_free(&values);
}

static void measure(void) {
    battery_string_t calls = STRING("battery_calls"), seconds = STRING("battery_seconds");
    tamis_filter_metrics_label_t kind = {STRING("kind"), STRING("head")};
    tamis_filter_metrics_counter_add(&calls, &(tamis_filter_metrics_list_label_t){&kind, 1}, 1);
    tamis_filter_metrics_histogram_observe(&seconds, &(tamis_filter_metrics_list_label_t){NULL, 0}, 0.25);
}

/* What a header of the request says, which is then removed. */
static enum mode take_mode(battery_string_t name) {
    battery_list_u8_t value;
    if (!tamis_filter_request_header(&name, &value)) return MODE_ABSENT;
    enum mode mode = equals(value, "swap")    ? MODE_SWAP
                     : equals(value, "drop")  ? MODE_DROP
                     : equals(value, "split") ? MODE_SPLIT
                                              : MODE_OTHER;
    battery_list_u8_free(&value);
    remove_header(name);
    return mode;
}

/* The edits trap if the host refuses them, so that no refusal goes unseen. */
static void set_header(battery_string_t name, battery_list_u8_t value) {
    tamis_filter_types_edit_error_t error;
    if (!tamis_filter_request_set_header(&name, &value, &error)) __builtin_trap();
}

static void remove_header(battery_string_t name) {
    tamis_filter_types_edit_error_t error;
    if (!tamis_filter_request_remove_header(&name, &error)) __builtin_trap();
}

static void set_attribute(battery_string_t name, battery_string_t value) {
    tamis_filter_types_edit_error_t error;
    if (!tamis_filter_exchange_set_attribute(&name, &value, &error)) __builtin_trap();
}

/* Without headers, and with a copy of `body`. */
static tamis_filter_types_reply_t reply(uint16_t status, battery_list_u8_t body) {
    tamis_filter_types_reply_t reply = {.status = status};
    append(&reply.body, body.ptr, body.len);
    return reply;
}

static void finish(battery_list_u8_t data, tamis_filter_types_end_verdict_t *verdict) {
    verdict->tag = TAMIS_FILTER_TYPES_END_VERDICT_FINISH;
    verdict->val.finish = (tamis_filter_types_ending_t){.data = data, .trailers = {.is_some = false}};
}

static void swap(battery_list_u8_t chunk) {
    for (size_t i = 0; i < chunk.len; i++) {
        if (chunk.ptr[i] == 'a') chunk.ptr[i] = 'b';
    }
}

static bool equals(battery_list_u8_t bytes, const char *text) {
    return bytes.len == strlen(text) && memcmp(bytes.ptr, text, bytes.len) == 0;
}

/* `to` is empty, or from malloc. */
static void append(battery_list_u8_t *to, const void *bytes, size_t len) {
    if (len == 0) return;
    to->ptr = realloc(to->ptr, to->len + len);
    if (to->ptr == NULL) abort();
    memcpy(to->ptr + to->len, bytes, len);
    to->len += len;
}

static void append_text(battery_list_u8_t *to, const char *text) { append(to, text, strlen(text)); }

/* In decimal. Not by printf, which would bring files along, and so imports that no filter may have. */
static void append_number(battery_list_u8_t *to, uint64_t number) {
    char digits[20];
    size_t at = sizeof digits;
    do digits[--at] = (char)('0' + number % 10);
    while ((number /= 10) > 0);
    append(to, digits + at, sizeof digits - at);
}

static battery_list_u8_t joined(const char *before, battery_string_t after) {
    battery_list_u8_t all = {NULL, 0};
    append_text(&all, before);
    append(&all, after.ptr, after.len);
    return all;
}

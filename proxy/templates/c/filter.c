/* Requests without the token are refused; the others say who let them pass.
 *
 * Who frees: what a hook returns is freed by the generated code, so it must come from malloc (or be empty). What an
 * import returns is the caller's; what it is given stays the caller's. */

#include "project.h"

#include <stdlib.h>
#include <string.h>

#define STRING(literal) ((project_string_t){(uint8_t *)(literal), sizeof(literal) - 1})
#define BYTES(literal) ((project_list_u8_t){(uint8_t *)(literal), sizeof(literal) - 1})

/* Whoever reads the log finds why it failed. */
static _Noreturn void fail(const char *why) {
    project_string_t message = {(uint8_t *)why, strlen(why)};
    tamis_filter_log_write(TAMIS_FILTER_LOG_LEVEL_ERROR, &message);
    abort();
}

static bool has_token(void) {
    project_string_t name = STRING("x-token");
    project_list_u8_t token;
    if (!tamis_filter_request_header(&name, &token)) return false;
    bool right = token.len == strlen("sesame") && memcmp(token.ptr, "sesame", token.len) == 0;
    project_list_u8_free(&token);
    return right;
}

static tamis_filter_types_reply_t refusal(void) {
    static const char text[] = "a token, please\n";
    tamis_filter_types_reply_t reply = {.status = 403};
    reply.body.len = sizeof text - 1;
    reply.body.ptr = malloc(reply.body.len);
    if (reply.body.ptr == NULL) fail("no memory for the refusal");
    memcpy(reply.body.ptr, text, reply.body.len);
    return reply;
}

void exports_tamis_filter_request_head_on_request_head(tamis_filter_types_request_verdict_t *verdict) {
    if (!has_token()) {
        verdict->tag = TAMIS_FILTER_TYPES_REQUEST_VERDICT_REPLY;
        verdict->val.reply = refusal();
        return;
    }
    project_string_t name = STRING("x-filter");
    project_list_u8_t value = BYTES("@NAME@");
    tamis_filter_types_edit_error_t error;
    if (!tamis_filter_request_set_header(&name, &value, &error)) fail("the name and the value are sound");
    verdict->tag = TAMIS_FILTER_TYPES_REQUEST_VERDICT_PROCEED;
}

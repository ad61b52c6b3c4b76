#include "json.h"

#include <stdlib.h>
#include <string.h>

struct text {
    const uint8_t *at, *end;
};

static bool next_is(struct text *text, uint8_t byte);
static bool read_string(struct text *text, uint8_t *out, size_t *out_len);
static void skip_value(struct text *text, uint8_t *scratch);

bool json_string_member(const uint8_t *json, size_t len, const char *name, uint8_t **value, size_t *value_len) {
    struct text text = {json, json + len};
    bool found = false, more = next_is(&text, '{');
    /* No string is longer than the text that it is written as. */
    uint8_t *key = malloc(len + 1);
    *value = malloc(len + 1);
    if (key == NULL || *value == NULL) abort();

    for (size_t key_len; more && read_string(&text, key, &key_len) && next_is(&text, ':'); more = next_is(&text, ',')) {
        if (key_len == strlen(name) && memcmp(key, name, key_len) == 0) {
            found = read_string(&text, *value, value_len);
            if (found) continue;
        }
        skip_value(&text, key);
    }
    free(key);
    if (!found) free(*value);
    return found;
}

/* Takes `byte`, and white space before it. */
static bool next_is(struct text *text, uint8_t byte) {
    while (text->at < text->end && memchr(" \t\r\n", *text->at, 4) != NULL) text->at++;
    bool is = text->at < text->end && *text->at == byte;
    if (is) text->at++;
    return is;
}

/* The four digits of `\uXXXX`. */
static bool read_hex(struct text *text, uint32_t *value) {
    static const char digits[] = "0123456789abcdef0123456789ABCDEF";
    *value = 0;
    for (int i = 0; i < 4; i++) {
        const char *digit = text->at < text->end ? memchr(digits, *text->at++, sizeof digits - 1) : NULL;
        if (digit == NULL) return false;
        *value = *value << 4 | (uint32_t)(digit - digits) % 16;
    }
    return true;
}

static bool read_escaped_character(struct text *text, uint32_t *character) {
    uint32_t low;
    if (!read_hex(text, character)) return false;
    if (*character < 0xD800 || *character > 0xDFFF) return true;
    /* Beyond 0xFFFF a character is written as two halves. */
    if (*character > 0xDBFF || text->end - text->at < 6 || memcmp(text->at, "\\u", 2) != 0) return false;
    text->at += 2;
    if (!read_hex(text, &low) || low < 0xDC00 || low > 0xDFFF) return false;
    *character = 0x10000 + ((*character - 0xD800) << 10 | (low - 0xDC00));
    return true;
}

static size_t write_utf8(uint32_t character, uint8_t *out) {
    if (character < 0x80) {
        out[0] = (uint8_t)character;
        return 1;
    }
    size_t len = character < 0x800 ? 2 : character < 0x10000 ? 3 : 4;
    for (size_t i = len; --i > 0; character >>= 6) out[i] = (uint8_t)(0x80 | (character & 0x3F));
    out[0] = (uint8_t)((len == 2 ? 0xC0 : len == 3 ? 0xE0 : 0xF0) | character);
    return len;
}

/* Takes a string, if there is one. `out` has room for all that is left of the text. */
static bool read_string(struct text *text, uint8_t *out, size_t *out_len) {
    if (!next_is(text, '"')) return false;
    size_t len = 0;
    while (text->at < text->end) {
        uint8_t byte = *text->at++;
        if (byte == '"') {
            *out_len = len;
            return true;
        }
        if (byte != '\\' || text->at == text->end) {
            out[len++] = byte;
            continue;
        }
        const char *escapes = "b\bf\fn\nr\rt\t";
        uint8_t escape = *text->at++;
        if (escape == 'u') {
            uint32_t character;
            if (!read_escaped_character(text, &character)) return false;
            len += write_utf8(character, out + len);
            continue;
        }
        for (; *escapes != '\0' && *escapes != escape; escapes += 2) {}
        /* What is no letter, stands for itself: `\"`, `\\`, `\/`. */
        out[len++] = *escapes == '\0' ? escape : (uint8_t)escapes[1];
    }
    return false;
}

static void skip_value(struct text *text, uint8_t *scratch) {
    size_t depth = 0, len;
    while (text->at < text->end) {
        switch (*text->at) {
        case '"':
            if (!read_string(text, scratch, &len)) return;
            continue;
        case '{':
        case '[':
            depth++;
            break;
        case '}':
        case ']':
            if (depth == 0) return;
            depth--;
            break;
        case ',':
            if (depth == 0) return;
        }
        text->at++;
    }
}

/* Reads one string out of a JSON object: all that a small filter needs of its configuration. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whether `json` is an object whose member `name` is a string; then `*value`, which is the caller's to free, holds its
 * `*value_len` bytes of UTF-8. Of several members of that name the last counts. The host hands over well-formed JSON,
 * so this looks only where it must: malformed text gives false or some value, and is never read past its end. */
bool json_string_member(const uint8_t *json, size_t len, const char *name, uint8_t **value, size_t *value_len);

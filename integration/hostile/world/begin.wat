(@include "imports") (@include "store") (@include "host")

(core instance $guest (instantiate $Guest (with "store" (instance $store)) (with "host" (instance $host))))

;; A policy that does nothing: every flow gets backend 0, because no pick is written. Policies are
;; timed against it.
(module
  (@custom "waxwing.module" "kind=policy\0aabi=1.0\0aname=empty\0a")
  (memory (export "memory") 6 6)
  ;; 1024: header, 2048: 64 flow records, 6144: 64 picks, 0x2000: config, 0x12000: 4096 backend records
  (func (export "waxwing_reserve") (param $len i32) (result i32) (i32.const 0x2000))
  (func (export "waxwing_init") (param $config_len i32) (param $backends_max i32) (result i32)
    (i32.store offset=0 (i32.const 1024) (i32.const 1))             ;; abi 1.0
    (i32.store offset=4 (i32.const 1024) (i32.const 96))            ;; size
    (i32.store offset=40 (i32.const 1024) (i32.const 0x12000))      ;; backends
    (i32.store offset=44 (i32.const 1024) (i32.const 4096))
    (i32.store offset=48 (i32.const 1024) (i32.const 2048))         ;; flows
    (i32.store offset=52 (i32.const 1024) (i32.const 64))
    (i32.store offset=56 (i32.const 1024) (i32.const 6144))         ;; picks
    (i32.const 1024))
  (func (export "waxwing_pick") (param $header i32) (param $n i32) (result i32) (local.get $n)))

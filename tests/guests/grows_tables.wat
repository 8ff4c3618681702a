;; Grows a table without end on an event that tells it to misbehave, which no Rust can do. A core module like those that
;; Rust makes, but without the WIT metadata: the test that wants it assembles it and embeds the world `validator`.
;; It misbehaves on data longer than `{}`.
(module
    (memory (export "memory") 1)
    (table $hoard 0 funcref)
    (global $free (mut i32) (i32.const 1024))

    ;; Where `describe` puts its answer: a summary, and a list of one example.
    (data (i32.const 16) "It grows a table.nothing{}")
    (data (i32.const 64)
        "\10\00\00\00\11\00\00\00"      ;; summary: 17 bytes at 16
        "\60\00\00\00\01\00\00\00")     ;; examples: 1 at 96
    (data (i32.const 96)
        "\21\00\00\00\07\00\00\00"      ;; title: 7 bytes at 33
        "\28\00\00\00\02\00\00\00"      ;; data: 2 bytes at 40
        "\00\00\00\00")                 ;; expect: accept
    ;; Where `validate` puts its answer: accept is all zeros.
    (data (i32.const 128) "\00\00\00\00\00\00\00\00\00\00\00\00")

    ;; Hands out memory and never takes it back; events are small and few here.
    (func (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
        (local $start i32)
        (local.set $start
            (i32.and
                (i32.sub (i32.add (global.get $free) (local.get $align)) (i32.const 1))
                (i32.sub (i32.const 0) (local.get $align))))
        (global.set $free (i32.add (local.get $start) (local.get $size)))
        (local.get $start))

    (func (export "describe") (result i32)
        (i32.const 64))

    ;; Six strings as address and length, with the timestamp in front of the last, the data.
    (func (export "validate")
        (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64) (param $data i32) (param $data_length i32) (result i32)
        (if (i32.gt_u (local.get $data_length) (i32.const 2))
            (then
                (loop $more
                    (if (i32.eq (table.grow $hoard (ref.null func) (i32.const 100000)) (i32.const -1))
                        (then unreachable))
                    (br $more))))
        (i32.const 128)))

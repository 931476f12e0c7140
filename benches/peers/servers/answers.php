<?php
// php-fpm: what src/lib.rs says.

function respond(string $type, string $body): void
{
    header("Content-Type: $type");
    header('Content-Length: ' . strlen($body));
    echo $body;
}

[, $name, $number] = explode('/', $_SERVER['REQUEST_URI']) + ['', '', '0'];

switch ($name) {
    case '':
        respond('text/plain; charset=utf-8', "hello, world\n");
        break;
    case 'json':
        respond('application/json', json_encode(['message' => 'Hello, World!']));
        break;
    case 'attack':
        $block = str_repeat("\x07", (int) $number * 1024);
        usleep(50000);
        respond('text/plain; charset=utf-8', 'held ' . strlen($block) . " bytes\n");
        break;
    default:
        http_response_code(404);
        respond('text/plain; charset=utf-8', "Not Found\n");
}

// Sets a control of a V4L2 device by its name: control /dev/video0 NAME VALUE. Without a name it lists
// them.
#include <fcntl.h>
#include <linux/videodev2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

int main(int argc, char **argv) {
    int fd = argc == 2 || argc == 4 ? open(argv[1], O_RDWR) : -1;
    if (fd < 0) {
        fprintf(stderr, "usage: control DEVICE [NAME VALUE]\n");
        return 2;
    }
    struct v4l2_query_ext_ctrl query = {.id = V4L2_CTRL_FLAG_NEXT_CTRL};
    for (; ioctl(fd, VIDIOC_QUERY_EXT_CTRL, &query) == 0; query.id |= V4L2_CTRL_FLAG_NEXT_CTRL) {
        if (argc == 2) {
            printf("%s\n", query.name);
        } else if (strcmp(query.name, argv[2]) == 0) {
            struct v4l2_control control = {.id = query.id, .value = atoi(argv[3])};
            if (ioctl(fd, VIDIOC_S_CTRL, &control) == 0) {
                return 0;
            }
            perror(argv[2]);
            return 1;
        }
    }
    if (argc == 4) {
        fprintf(stderr, "there is no control \"%s\"\n", argv[2]);
    }
    return argc == 4;
}

// Minimal FUSE server in a thread: one file "f" in the root. Configurable hangs.
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <fcntl.h>
#include <errno.h>
#include <pthread.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <signal.h>
#include <linux/fuse.h>
static int hf_fd; static volatile int hf_hang_flush, hf_hang_read; static volatile int hf_flushes, hf_reads;
static void hf_reply(uint64_t u,int err,const void*d,size_t n){struct fuse_out_header h={.len=sizeof h+n,.error=-err,.unique=u};struct iovec v[2]={{&h,sizeof h},{(void*)d,n}};if(writev(hf_fd,v,n?2:1)<0)perror("hf write");}
static void hf_attr(struct fuse_attr*a,uint64_t ino){memset(a,0,sizeof*a);a->ino=ino;a->nlink=1;a->uid=getuid();a->gid=getgid();if(ino==1){a->mode=S_IFDIR|0755;}else{a->mode=S_IFREG|0666;a->size=1<<20;a->blocks=2048;}}
static void* hf_loop(void*_){static char buf[1<<18];for(;;){ssize_t n=read(hf_fd,buf,sizeof buf);if(n<0){if(errno==EINTR||errno==ENOENT)continue;return 0;}
 struct fuse_in_header*h=(void*)buf;void*arg=h+1;
 switch(h->opcode){
 case FUSE_INIT:{struct fuse_init_in*in=arg;struct fuse_init_out o={0};o.major=7;o.minor=31;o.max_readahead=in->max_readahead;o.max_write=65536;o.max_background=12;o.congestion_threshold=9;hf_reply(h->unique,0,&o,sizeof o);break;}
 case FUSE_LOOKUP:{struct fuse_entry_out o={0};if(strcmp(arg,"f")){hf_reply(h->unique,ENOENT,0,0);break;}o.nodeid=2;hf_attr(&o.attr,2);o.entry_valid=o.attr_valid=1000;hf_reply(h->unique,0,&o,sizeof o);break;}
 case FUSE_GETATTR:{struct fuse_attr_out o={0};hf_attr(&o.attr,h->nodeid);o.attr_valid=1000;hf_reply(h->unique,0,&o,sizeof o);break;}
 case FUSE_OPENDIR: case FUSE_OPEN:{struct fuse_open_out o={0};hf_reply(h->unique,0,&o,sizeof o);break;}
 case FUSE_READ:{hf_reads++;if(hf_hang_read){break;}struct fuse_read_in*r=arg;static char z[1<<17];hf_reply(h->unique,0,z,r->size);break;}
 case FUSE_FLUSH: hf_flushes++; if(hf_hang_flush){fprintf(stderr,"[hangfs] FLUSH from uid %u pid %u: not answered\n",h->uid,h->pid);break;} hf_reply(h->unique,0,0,0);break;
 case FUSE_RELEASE: case FUSE_RELEASEDIR: hf_reply(h->unique,0,0,0);break;
 case FUSE_FORGET: case FUSE_BATCH_FORGET: case FUSE_INTERRUPT: break;
 default: hf_reply(h->unique,ENOSYS,0,0);
 }}}
static void wr(const char*p,const char*s){int f=open(p,O_WRONLY);if(f<0||write(f,s,strlen(s))<0){perror(p);exit(1);}close(f);}
// unprivileged: new user+mount ns, mount at dir
static void hf_start(const char*dir){uid_t u=getuid();gid_t g=getgid();char m[64];if(unshare(CLONE_NEWUSER|CLONE_NEWNS)){perror("unshare");exit(1);}wr("/proc/self/setgroups","deny");sprintf(m,"%u %u 1",u,u);wr("/proc/self/uid_map",m);sprintf(m,"%u %u 1",g,g);wr("/proc/self/gid_map",m);
 hf_fd=open(getenv("FUSEDEV")?getenv("FUSEDEV"):"/dev/fuse",O_RDWR|O_CLOEXEC);if(hf_fd<0){perror("/dev/fuse");exit(1);}
 char o[128];sprintf(o,"fd=%d,rootmode=40000,user_id=%u,group_id=%u",hf_fd,u,g);if(mount("hang",dir,"fuse",MS_NOSUID|MS_NODEV,o)){perror("mount");exit(1);}
 pthread_t t;pthread_create(&t,0,hf_loop,0);}

// Reads files after shedding what a Deny may rest on.
// usage: shed WAY FIRST N PATH... ; FIRST: the first of one's 65,536 sub uids and sub gids; N: attempts at each path.
// Prints "PATH BYTES" for each path: the bytes that came, all attempts together.
//   plain    nothing is shed
//   sub      the first sub uid, no groups                     (newuidmap, newgidmap, setgroups)
//   each     every attempt another sub uid, no groups
//   groups   one's own uid, a sub gid, no groups
//   own      one's own uid in a user namespace of one's own   (unshare -Ur)
//   nested   `sub` within `own`'s kind of namespace in another
//   pidns    `groups` in a pid namespace of its own
//   thread   `groups`, shed by one thread alone
//   setuid   a program that a sub uid owns, set-uid, run in the initial namespace
//   setgid   a copy of this program, set-gid to the first supplementary group; then that is every gid
//   exec     `sub`, then another program
//   private  run by root with a uid for FIRST: that user with his groups, in a namespace that maps root and him alone (what
//            systemd's PrivateUsers= does)
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <pthread.h>
#include <stdarg.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
static char **paths;static int count,attempts,cycle,keep;
static void die(const char*w){perror(w);exit(2);}
// ASK in the environment: the path is a control socket, which is asked that instead.
static void ask(void){int s=socket(AF_UNIX,SOCK_SEQPACKET,0);struct sockaddr_un a={.sun_family=AF_UNIX};strcpy(a.sun_path,paths[0]);
 if(connect(s,(void*)&a,sizeof a))die("connect");char*q=getenv("ASK"),b[1<<16];if(send(s,q,strlen(q),0)<0)die("send");
 for(;;){ssize_t n=recv(s,b,sizeof b,0);if(n<=0)die("recv");if(b[0]==2)continue;fwrite(b+1,1,n-1,stdout);if(b[0]==0)break;}fflush(stdout);}
static void read_all(void){if(getenv("ASK")){ask();return;}for(int i=0;i<count;i++){long got=0;char b[256];
 for(int k=0;k<attempts;k++){if(cycle)setfsuid(k%65000+1);
  int f=open(paths[i],O_RDONLY);if(f<0){if(errno!=EACCES&&errno!=ENOENT)die(paths[i]);continue;}
  int n=read(f,b,sizeof b);if(n>0)got+=n;close(f);}
 printf("%s %ld\n",paths[i],got);}fflush(stdout);}
static void* shed_thread(void*_){gid_t none;if(syscall(SYS_setresgid,0,0,0)||syscall(SYS_setgroups,0,&none))die("thread");read_all();return 0;}
static void put(const char*p,const char*s){int f=open(p,O_WRONLY);if(f<0||write(f,s,strlen(s))<0)die(p);close(f);}
static int run(const char*f,...){char c[300];va_list a;__builtin_va_start(a,f);vsnprintf(c,sizeof c,f,a);return system(c);}
// in a child of a namespace of its own, with these maps; then `then`
static int within(const char*u,const char*g,int flags,void(*then)(void)){int up[2],down[2];char b;if(pipe(up)||pipe(down))die("pipe");
 pid_t k=fork();if(!k){if(unshare(CLONE_NEWUSER|flags))die("unshare");write(up[1],"x",1);read(down[0],&b,1);
  if(!keep&&(setgid(0)||setgroups(0,0)||setuid(0)))die("ids");
  if(flags&CLONE_NEWPID){pid_t c=fork();if(!c){then();_exit(0);}int s;waitpid(c,&s,0);_exit(WEXITSTATUS(s));}
  then();_exit(0);}
 read(up[0],&b,1);if(run("newuidmap %d %s",k,u)||run("newgidmap %d %s",k,g))exit(2);
 write(down[1],"x",1);int s;waitpid(k,&s,0);return WIFEXITED(s)?WEXITSTATUS(s):2;}
static char self[4096],copy[4200],first[20],tries[20];
static void nested(void){if(unshare(CLONE_NEWUSER))die("nested");read_all();}
static void threaded(void){pthread_t t;if(pthread_create(&t,0,shed_thread,0))die("thread");pthread_join(t,0);}
static void again(void){char*v[count+5];v[0]=self;v[1]="plain";v[2]=first;v[3]=tries;memcpy(v+4,paths,count*sizeof*v);v[4+count]=0;execv(self,v);die("exec");}
static void make_copy(void){struct stat s;int i=open(self,O_RDONLY),o=open(copy,O_CREAT|O_TRUNC|O_WRONLY,0755);if(i<0||o<0)die(copy);char b[65536];ssize_t n;while((n=read(i,b,sizeof b))>0)if(write(o,b,n)!=n)die(copy);close(o);}
static void give_away(void){make_copy();if(chown(copy,1,1)||chmod(copy,06755))die("chown");}
static void run_copy(void){char*v[count+5];v[0]=copy;v[1]="as";v[2]=first;v[3]=tries;memcpy(v+4,paths,count*sizeof*v);v[4+count]=0;execv(copy,v);die(copy);}
int main(int c,char**v){if(c<5)return 2;char*way=v[1];long base=atol(v[2]);attempts=atoi(v[3]);paths=v+4;count=c-4;
 strcpy(first,v[2]);strcpy(tries,v[3]);readlink("/proc/self/exe",self,sizeof self-1);
 char sub[80],own[80],gsub[80],all[80],half[80];uid_t me=getuid();gid_t g=getgid();
 sprintf(sub,"0 %ld 1",base);sprintf(gsub,"0 %ld 1",base);sprintf(own,"0 %u 1",me);sprintf(all,"0 %ld 65536",base);
 if(!strcmp(way,"plain")){read_all();return 0;}
 if(!strcmp(way,"sub"))return within(sub,gsub,0,read_all);
 if(!strcmp(way,"each")){cycle=1;return within(all,all,0,read_all);}
 if(!strcmp(way,"groups"))return within(own,gsub,0,read_all);
 if(!strcmp(way,"pidns"))return within(own,gsub,CLONE_NEWPID,read_all);
 if(!strcmp(way,"nested"))return within(all,all,0,nested);
 if(!strcmp(way,"thread")){keep=1;return within(own,gsub,0,threaded);}
 if(!strcmp(way,"exec"))return within(sub,gsub,0,again);
 if(!strcmp(way,"own")){char m[80];if(unshare(CLONE_NEWUSER))die("unshare");put("/proc/self/setgroups","deny");
  sprintf(m,"0 %u 1",me);put("/proc/self/uid_map",m);sprintf(m,"0 %u 1",g);put("/proc/self/gid_map",m);read_all();return 0;}
 // In a directory that everybody may write and that heeds set-uid.
 sprintf(copy,"/var/tmp/shed-%u-%s",me,way);unlink(copy);
 if(!strcmp(way,"setuid")){int s=within(all,all,0,give_away);if(s)return s;run_copy();}
 if(!strcmp(way,"setgid")){gid_t l[64];int n=getgroups(64,l),i=0;while(i<n&&l[i]==g)i++;if(i>=n)return 2;make_copy();if(chown(copy,-1,l[i])||chmod(copy,02755))die("chgrp");run_copy();}
 if(!strcmp(way,"private")){int up[2],down[2];char b;struct passwd*p=getpwuid(base);if(pipe(up)||pipe(down))die("pipe");
  pid_t k=fork();if(!k){if(p?initgroups(p->pw_name,p->pw_gid):setgroups(0,0))die("groups");if(unshare(CLONE_NEWUSER))die("unshare");write(up[1],"x",1);read(down[0],&b,1);
   if(setresgid(base,base,base)||setresuid(base,base,base))die("ids");read_all();_exit(0);}
  char f[80],m[80];read(up[0],&b,1);sprintf(m,"0 0 1\n%ld %ld 1\n",base,base);sprintf(f,"/proc/%d/uid_map",k);put(f,m);sprintf(f,"/proc/%d/gid_map",k);put(f,m);
  write(down[1],"x",1);int s;waitpid(k,&s,0);return WIFEXITED(s)?WEXITSTATUS(s):2;}
 if(!strcmp(way,"as")){uid_t e=geteuid();gid_t eg=getegid();if(setresgid(eg,eg,eg)||setresuid(e,e,e))die("as");read_all();return 0;}
 return 2;}
